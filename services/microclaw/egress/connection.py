"""A worker's connection: reads requests off its door and leads each to the model, a page, the proxy, or onward."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import h11

from microclaw.core import pages
from microclaw.core.model_route import PREFIX
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire

#: What the paths of requests begin with that go on to a host by TLS: `/to/host[:port]/…`.
REVERSE = "/to/"
#: Where the agent asks for its programs' variables, for the certificate that they are to trust, and for why requests in
#: their tunnels were refused.
ENVIRONMENT = b"/environment"
AUTHORITY = b"/authority.pem"
REFUSALS = b"/refusals"

#: How a request is handled. True: the connection was taken over (a tunnel), nothing more is read from it.
Handler = Callable[[Owner, Wire, h11.Request], Awaitable[bool]]

class Connections:
    """Visits of all doors."""

    def __init__(
        self, *, route: Handler, tunnel: Handler, forward: Handler, page: Handler, environment: Handler,
        authority: Handler, refusals: Handler, limits: Limits,
    ) -> None:
        self._route = route
        self._said = {ENVIRONMENT: environment, AUTHORITY: authority, REFUSALS: refusals}
        self._tunnel = tunnel
        self._forward = forward
        self._page = page
        self._limits = limits
        #: Connections open now, all doors together.
        self.open = 0

    async def visit(self, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end. Whatever breaks off in the middle is cut, so that it can't seem whole."""
        wire = Wire(h11.SERVER, reader, writer, self._limits)
        self.open += 1
        try:
            try:
                await each_request(wire, lambda request: self._handle(owner, wire, request))
            except BadMessage as bad:
                await refuse_bad(wire, bad.status, bad.reason)
        except Closed:
            writer.transport.abort()
        finally:
            self.open -= 1

    async def _handle(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        if request.method == b"CONNECT":
            return await self._tunnel(owner, wire, request)
        path = request.target.split(b"?")[0]
        if path == PREFIX.encode() or path.startswith(PREFIX.encode() + b"/"):
            return await self._route(owner, wire, request)
        if path in self._said:
            return await self._said[path](owner, wire, request)
        if path.startswith(pages.PREFIX.encode()):
            return await self._page(owner, wire, request)
        if not request.target.startswith(b"/") or path.startswith(REVERSE.encode()):
            return await self._forward(owner, wire, request)
        await refuse(
            wire, 404, f"this door leads to {PREFIX}/… (the model), {pages.PREFIX}https://HOST/… (pages), "
            f"{REVERSE}HOST/… and, as an HTTP proxy, to allowed hosts",
        )
        return False


async def each_request(wire: Wire, handle: Callable[[h11.Request], Awaitable[bool]]) -> None:
    """One after the other, until the client has no more or the connection was taken over.

    :raises BadMessage: :raises Closed:
    """
    while (request := await wire.request()) is not None:
        if await handle(request):
            return
        if wire.h11.our_state is not h11.DONE or wire.h11.their_state is not h11.DONE:
            return
        wire.h11.start_next_cycle()


async def refuse_bad(wire: Wire, status: int, reason: str) -> None:
    """Answer what is no message, if no answer was begun. :raises Closed: it was, and must not seem whole."""
    if wire.h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        raise Closed(reason)
    await refuse(wire, status, reason)


async def refuse(wire: Wire, status: int, reason: str, *, body: bytes = b"", kind: str = "egress_error") -> None:
    """Answer with an error of ours. :raises Closed:"""
    content = body or json.dumps({"error": {"type": kind, "message": reason}}).encode()
    said = _header(reason)
    wire.on_refusal(status, reason)
    # In the status line too: of a refused tunnel it is all that most programs show.
    await answer(wire, status, content, [(b"x-egress-reason", said)], phrase=said)


async def answer(
    wire: Wire, status: int, content: bytes, headers: list[tuple[bytes, bytes]], *, phrase: bytes = b"",
    kind: bytes = b"application/json",
) -> None:
    """A whole answer; the connection ends after an error within a body that is still coming. :raises Closed:"""
    if wire.h11.their_state is h11.SEND_BODY:
        headers = [*headers, (b"connection", b"close")]
    await wire.send(h11.Response(
        status_code=status, reason=phrase,
        headers=[(b"content-type", kind), (b"content-length", str(len(content)).encode()), *headers],
    ))
    if wire.method != b"HEAD":
        await wire.send(h11.Data(data=content))
    await wire.send(h11.EndOfMessage())


def _header(text: str) -> bytes:
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return printable.encode("ascii")[:500].strip()
