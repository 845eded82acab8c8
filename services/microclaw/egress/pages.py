"""`GET /page/https://host/…`: egress gets the page and hands it in. The way of the tool `web_fetch`.

A program inside may go it as well, and can do no more by it than the tool: that is what makes a rule for this way alone
worth something (`core.pages` says what is left of a request). Redirects are told, not followed: each is judged anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import aclosing

import h11

from microclaw.core.errors import UsageError
from microclaw.core.pages import PAGE_BYTES_MAX, Page, parse_page, refused_request, shown
from microclaw.core.scrub import StreamScrubber
from microclaw.core.sentinels import found_in
from microclaw.egress.connection import refuse
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire
from microclaw.egress.proxy import Proxy
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.upstream import Unreachable, connected

#: From the request to the answer's first byte, and for the whole page.
ANSWER_S_MAX = 20.0
PAGE_S_MAX = 120.0

_ACTION = "egress.page"


class Pages:
    """Reads, decides with `Proxy`, records, gets."""

    def __init__(
        self, proxy: Proxy, secrets: SecretStore, *, tls: Callable[[], ssl.SSLContext], limits: Limits,
    ) -> None:
        self._proxy = proxy
        self._secrets = secrets
        self._tls = tls
        self._limits = limits

    async def handle(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """Get one page, or refuse it. :raises Closed: :raises BadMessage:"""
        if not await self._proxy.admit(owner, wire):
            return False
        target = request.target.decode("ascii", "replace")
        try:
            page = parse_page(target)
        except UsageError as error:
            return await self._proxy.deny(owner, wire, _ACTION, target[:200], str(error), status=400)
        reason = refused_request(request.method, request.headers)
        if not reason and found_in(request.target):
            reason = "its address holds a credential, and none is lent to pages: nothing was sent"
        if reason:
            return await self._proxy.deny(owner, wire, _ACTION, page.where, reason)
        checked = await self._proxy.check(owner, page.host, page.port, target, "web_fetch")
        if isinstance(checked, str):
            return await self._proxy.deny(owner, wire, _ACTION, page.where, checked)
        with self._proxy.place():
            await self._proxy.record(owner, _ACTION, page.where, "allow", "")
            try:
                async with asyncio.timeout(PAGE_S_MAX):
                    await self._get(wire, page, checked.addresses)
            except Unreachable as error:
                await refuse(wire, 502, str(error))
            except TimeoutError:
                if wire.h11.our_state is not h11.SEND_RESPONSE:
                    raise Closed(f"the page took longer than {PAGE_S_MAX:g} s") from None
                await refuse(wire, 504, f"{page.host} gave no answer within {ANSWER_S_MAX:g} s")
        return False

    async def _get(self, wire: Wire, page: Page, addresses: tuple[str, ...]) -> None:
        async with connected(
            self._proxy.dial, addresses, page.port, name=page.host, limits=self._limits,
            tls=self._tls() if page.tls else None,
        ) as outside:
            try:
                await outside.send(h11.Request(method="GET", target=page.target, headers=page.headers()))
                await outside.send(h11.EndOfMessage())
                head = await outside.response(ANSWER_S_MAX)
            except Closed as closed:
                raise Unreachable(f"{page.where} gave no answer: {closed}") from closed
            if any(key == b"content-encoding" and value.lower() != b"identity" for key, value in head.headers):
                await refuse(wire, 502, f"{page.host} compressed its answer though it was asked not to")
                return
            headers = [(key, self._secrets.scrubber.masked(value)) for key, value in shown(head.headers)]
            async for _ in wire.body(0):
                pass  # there is none: only the end of the request, which lets the connection be used again
            await wire.send(h11.Response(status_code=head.status_code, headers=headers))
            try:
                await self._pass(outside, wire)
            except BadMessage as bad:
                raise Closed(f"the page broke off: {bad.reason}") from bad
            await wire.send(h11.EndOfMessage())

    async def _pass(self, outside: Wire, wire: Wire) -> None:
        # Counted behind the mask, which holds back what may begin a secret: a cut never shows the half of one.
        masked = StreamScrubber(self._secrets.scrubber)
        left = PAGE_BYTES_MAX
        async with aclosing(outside.body(2 * PAGE_BYTES_MAX)) as pieces:
            async for piece in pieces:
                if out := masked.feed(piece)[:left]:
                    await wire.send(h11.Data(data=out))
                    left -= len(out)
                if not left:
                    return
        if out := masked.finish()[:left]:
            await wire.send(h11.Data(data=out))
