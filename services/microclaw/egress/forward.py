"""HTTP that egress itself reads: `GET http://host/…` as a proxy, `/to/host/…`, which goes on by TLS, and what comes in
a tunnel that was opened (`connect.py`).

Here a lent credential takes its sentinel's place. A request that holds one goes by TLS whatever it says: `http://` is
then only the way to the door.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from microclaw.core.egress_rules import PLAIN_PORT, parse_authority, websocket_refused
from microclaw.core.errors import UsageError
from microclaw.core.model_route import Headers, passed
from microclaw.core.scrub import StreamScrubber
from microclaw.core.sentinels import found_in
from microclaw.core.websocket import asks_for_upgrade, handshake, refused_handshake
from microclaw.egress.connection import REVERSE, refuse
from microclaw.egress.credentials import Credentials, Lent
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire
from microclaw.egress.proxy import Passage, Proxy
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.tunnel import TUNNEL_BYTES_MAX
from microclaw.egress.upstream import Line, Stale, Unreachable, connected
from microclaw.egress.websocket import WebSockets

#: Bodies, each way.
BODY_BYTES_MAX = TUNNEL_BYTES_MAX
#: A body up to this size is read whole, so that sentinels in it are found; longer ones pass as they are. Small, because
#: one worker may have as many under way as a door takes connections.
WHOLE_BYTES_MAX = 64 << 10
#: What asks and changes nothing (RFC 9110 section 9.2.1).
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
#: What a server says on a connection that was quiet for too long, before it closes it (RFC 9110 section 15.5.9).
_GIVEN_UP = 408
#: From a request to its answer's first byte.
ANSWER_S_MAX = 300.0


@dataclass(frozen=True, slots=True)
class _Goal:
    """Where a request goes."""

    host: str
    port: int
    tls: bool
    #: Path and query.
    target: bytes
    #: It came as `/to/host/…`.
    reverse: bool = False
    #: It came in a tunnel: the connection to the host is kept for the next one.
    inside: bool = False

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The `Host` header."""
        return self.host if self.port == (443 if self.tls else PLAIN_PORT) else self.where


class Refused(Exception):
    """It is not sent, and the worker is told why."""

    def __init__(self, subject: str, reason: str, status: int = 403) -> None:
        self.subject = subject
        self.status = status
        super().__init__(reason)


class Forward:
    """Reads, decides with `Proxy`, records, carries."""

    def __init__(
        self, proxy: Proxy, credentials: Credentials, secrets: SecretStore, websockets: WebSockets, *,
        tls: Callable[[], ssl.SSLContext], limits: Limits,
    ) -> None:
        self._proxy = proxy
        self._credentials = credentials
        self._secrets = secrets
        self._websockets = websockets
        self._tls = tls
        self._limits = limits

    async def handle(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """Carry out one request, or refuse it. True: it began a WebSocket, which is over.

        :raises Closed: :raises BadMessage:
        """
        if not await self._proxy.admit(owner, wire):
            return False
        try:
            goal = _goal(request)
            self._look(request, goal)
            target = request.target.decode("ascii", "replace")
            lent = self._lent(owner, goal, _head(request))
            checked = await self._proxy.check(owner, goal.host, goal.port, target, "bash")
            with self._proxy.place():
                async with Line() as line:
                    return await self._carry_out(owner, wire, request, goal, checked, lent, line)
        except Refused as refused:
            return await self._deny(owner, wire, request, refused)

    async def inside(
        self, owner: Owner, wire: Wire, request: h11.Request, host: str, port: int, passage: Passage, line: Line,
    ) -> bool:
        """The same for a request in a tunnel to `host:port`, and nowhere else. `passage`, place and `line` are the
        tunnel's.

        :raises Closed: :raises BadMessage:
        """
        try:
            goal = _goal_inside(request, host, port)
            self._look(request, goal)
            target = request.target.decode("ascii", "replace")
            lent = self._lent(owner, goal, _head(request))
            checked = self._proxy.check_again(owner, host, port, target, passage)
            return await self._carry_out(owner, wire, request, goal, checked, lent, line)
        except Refused as refused:
            return await self._deny(owner, wire, request, refused)

    async def _deny(self, owner: Owner, wire: Wire, request: h11.Request, refused: Refused) -> bool:
        return await self._proxy.deny(
            owner, wire, _action(request), refused.subject, str(refused), status=refused.status
        )

    async def _carry_out(
        self, owner: Owner, wire: Wire, request: h11.Request, goal: _Goal, checked: Passage | str, lent: Lent,
        line: Line,
    ) -> bool:
        if isinstance(checked, str):
            raise Refused(goal.where, checked)
        if asks_for_upgrade(request.headers) and not checked.websocket:
            raise Refused(goal.where, websocket_refused(goal.host, goal.port, owner.group))
        body = await _whole_body(wire, request)
        if body is not None and found_in(body):
            if not goal.tls:
                raise Refused(
                    goal.where, f"its body holds a credential, and goes unencrypted: send it to "
                    f"{REVERSE}{goal.host}/… at this door"
                )
            lent = self._lent(owner, goal, [*_head(request), body])
        await self._proxy.record(owner, _action(request), goal.where, "allow", request.method.decode())
        for name in lent.names:
            await self._proxy.record(owner, "secret.use", f"{name} at {goal.where}", "allow", "")
        try:
            return await self._send(owner, wire, request, goal, checked.addresses, lent, body, line)
        except Unreachable as error:
            await refuse(wire, 502, str(error))
        except TimeoutError:
            await refuse(wire, 504, f"{goal.host} gave no answer within {ANSWER_S_MAX:g} s")
        finally:
            await line.rest()
        return False

    def _look(self, request: h11.Request, goal: _Goal) -> None:
        """:raises Refused: what can be said of the request by itself."""
        if not goal.tls and goal.port != PLAIN_PORT:
            raise Refused(
                goal.where, f"unencrypted HTTP goes to port {PLAIN_PORT} only, not to {goal.where}; by TLS: "
                f"{REVERSE}{goal.where}/… at this door"
            )
        scrubber = self._secrets.scrubber
        if scrubber.holds(request.target) or any(scrubber.holds(value) for _, value in request.headers):
            raise Refused(goal.where, "it holds a secret: it was not sent")
        if asks_for_upgrade(request.headers) and (why := refused_handshake(request.method, request.headers)):
            raise Refused(goal.where, f"egress reads this request: {why}")

    def _lent(self, owner: Owner, goal: _Goal, texts: list[bytes]) -> Lent:
        """:raises Refused: a credential is not for this host."""
        lent = self._credentials.lent(owner, goal.host, goal.port, texts)
        if isinstance(lent, str):
            raise Refused(goal.where, lent)
        return lent

    async def _send(
        self, owner: Owner, wire: Wire, request: h11.Request, goal: _Goal, addresses: tuple[str, ...], lent: Lent,
        body: bytes | None, line: Line,
    ) -> bool:
        """:raises Unreachable: :raises TimeoutError:"""
        headers: Headers = [(key, value) for key, value in passed(request.headers, cookies=True)]
        # Uncompressed, so that a value that comes back is found.
        headers = [(key, value) for key, value in headers if key != b"accept-encoding"]
        headers += [(b"host", goal.authority.encode()), (b"accept-encoding", b"identity")]
        upgrade = asks_for_upgrade(request.headers)
        if upgrade:
            headers = handshake(headers)
        elif not goal.inside:
            headers.append((b"connection", b"close"))
        if body is not None:
            kind = next((value for key, value in headers if key == b"content-type"), b"").decode("ascii", "replace")
            # What a person once typed is masked as everywhere, before what is lent for here is put in.
            body = lent.body(self._secrets.scrubber.masked(body), kind)
            if any(key == b"content-length" for key, _ in headers):
                headers = [(key, value) for key, value in headers if key != b"content-length"]
                headers.append((b"content-length", str(len(body)).encode()))
        elif any(key == b"transfer-encoding" for key, _ in request.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        outgoing = h11.Request(
            method=request.method, target=lent.target(goal.target), headers=lent.headers(headers)
        )
        # Only what may be sent twice goes by a connection that the server may be closing at this moment.
        if outgoing.method in _SAFE and body == b"" and not upgrade and (kept := line.kept()) is not None:
            with suppress(Stale):
                return await self._exchange(owner, wire, kept, outgoing, body, goal, lent)
        outside = await line.new(connected(
            self._proxy.dial, addresses, goal.port, name=goal.host, limits=self._limits,
            tls=self._tls() if goal.tls else None,
        ))
        return await self._exchange(owner, wire, outside, outgoing, body, goal, lent)

    async def _exchange(
        self, owner: Owner, wire: Wire, outside: Wire, request: h11.Request, body: bytes | None, goal: _Goal,
        lent: Lent,
    ) -> bool:
        scrubber = self._secrets.scrubber
        head = await self._asked(wire, outside, request, body, goal)
        # By a cookie a server knows whom it let in: after a lent credential it is one itself.
        kept = passed(head.headers, cookies=not lent.names)
        if isinstance(head, h11.InformationalResponse):
            return await self._websockets.carry(owner, wire, outside, head, kept, goal.where)
        if lent.names and any(
            key == b"content-encoding" and value.lower() != b"identity" for key, value in head.headers
        ):
            await refuse(wire, 502, f"{goal.host} compressed its answer though it was asked not to")
            return False
        headers = [(key, scrubber.masked(_led_back(goal, key, value))) for key, value in kept]
        await wire.send(h11.Response(status_code=head.status_code, headers=headers))
        masked = StreamScrubber(scrubber)
        try:
            async for piece in outside.body(BODY_BYTES_MAX):
                if out := masked.feed(piece):
                    await wire.send(h11.Data(data=out))
            if out := masked.finish():
                await wire.send(h11.Data(data=out))
            await wire.send(h11.EndOfMessage())
        except BadMessage as bad:
            raise Closed(f"the answer broke off: {bad.reason}") from bad
        return False

    async def _asked(
        self, wire: Wire, outside: Wire, request: h11.Request, body: bytes | None, goal: _Goal,
    ) -> h11.Response | h11.InformationalResponse:
        """Send it; the answer's head. :raises Unreachable: :raises TimeoutError:"""
        before = outside.received
        try:
            await outside.send(request)
            if body is None:
                await self._pass_body(wire, outside)
            elif body:
                await outside.send(h11.Data(data=body))
            await outside.send(h11.EndOfMessage())
        except Closed:
            if body is None and wire.reader.at_eof():
                raise
            # The server wants no more of it: it may have said why.
        try:
            head = await outside.response_or_switch(ANSWER_S_MAX)
        except Closed as closed:
            why = f"{goal.where} gave no answer: {closed}"
            raise (Stale if outside.received == before else Unreachable)(why) from closed
        if head.status_code == _GIVEN_UP and before:
            raise Stale(f"{goal.where} gave no answer: it was about to close the connection")
        return head

    async def _pass_body(self, wire: Wire, outside: Wire) -> None:
        if wire.h11.they_are_waiting_for_100_continue:
            await wire.send(h11.InformationalResponse(status_code=100, headers=[]))
        masked = StreamScrubber(self._secrets.scrubber)
        async for piece in wire.body(BODY_BYTES_MAX):
            if out := masked.feed(piece):
                await outside.send(h11.Data(data=out))
        if out := masked.finish():
            await outside.send(h11.Data(data=out))


def _action(request: h11.Request) -> str:
    """As the audit log calls it."""
    return "egress.websocket" if asks_for_upgrade(request.headers) else "egress.http"


def _goal(request: h11.Request) -> _Goal:
    """:raises Refused: it can't be read."""
    target = request.target.decode("ascii", "replace")
    try:
        if target.startswith(REVERSE):
            place, slash, rest = target.removeprefix(REVERSE).partition("/")
            place, query, asked = (place, "", "") if slash else place.partition("?")
            host, port = parse_authority(place)
            return _Goal(host, port, True, f"/{rest}{query}{asked}".encode(), reverse=True)
        parts = urlsplit(target)
        if parts.scheme != "http" or "@" in parts.netloc:
            raise UsageError(f"{target[:80]!r} is not http://host/…: https goes by CONNECT")
        host, port = parse_authority(parts.netloc, PLAIN_PORT)
    except (UsageError, ValueError) as error:
        raise Refused(target[:200], str(error), 400) from None
    path = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
    if any(found_in(text) for text in _head(request)):
        return _Goal(host, 443 if port == PLAIN_PORT else port, True, path)
    return _Goal(host, port, False, path)


def _goal_inside(request: h11.Request, host: str, port: int) -> _Goal:
    """:raises Refused: it can't be read, or is meant for another host than the tunnel."""
    where = f"{host}:{port}"
    target = request.target.decode("ascii", "replace")
    named = [value.decode("ascii", "replace") for key, value in request.headers if key == b"host"]
    path = request.target
    if not target.startswith("/") and (request.method, target) != (b"OPTIONS", "*"):
        try:
            parts = urlsplit(target)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme != "https" or request.method == b"CONNECT":
            raise Refused(where, f"{target[:80]!r} is no request that a tunnel to {where} can hold", 400)
        named.append(parts.netloc)
        path = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
    for name in named:
        try:
            meant = parse_authority(name)
        except UsageError:
            meant = None
        if meant != (host, port):
            # A server with many names would answer for another one than was judged.
            raise Refused(where, f"its host {name[:80]!r} is not the host {where} of the CONNECT", 421)
    return _Goal(host, port, True, path, inside=True)


def _head(request: h11.Request) -> list[bytes]:
    """All of it in which a credential may be."""
    return [request.target, *(value for _, value in request.headers)]


async def _whole_body(wire: Wire, request: h11.Request) -> bytes | None:
    """The body, where there is none or it says beforehand that it is short; None = it is to be streamed."""
    length = next((int(value) for key, value in request.headers if key == b"content-length"), 0)
    if length > WHOLE_BYTES_MAX or any(key == b"transfer-encoding" for key, _ in request.headers):
        return None
    if wire.h11.they_are_waiting_for_100_continue:
        await wire.send(h11.InformationalResponse(status_code=100, headers=[]))
    return b"".join([piece async for piece in wire.body(WHOLE_BYTES_MAX)])


def _led_back(goal: _Goal, key: bytes, value: bytes) -> bytes:
    """A redirect within the host leads back through the door, where it came as `/to/host/…`."""
    if key != b"location" or not goal.reverse:
        return value
    with suppress(ValueError):
        parts = urlsplit(value.decode("ascii", "replace"))
        within = not parts.scheme and not parts.netloc and parts.path.startswith("/")
        if within or (parts.scheme == "https" and parts.netloc in (goal.authority, goal.where)):
            return f"{REVERSE}{goal.authority}{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}".encode()
    return value
