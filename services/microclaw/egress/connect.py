"""`CONNECT host:port`: a tunnel whose TLS is opened, so that each request in it is judged, or one carried unopened."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import h11

from microclaw.core.client_hello import BadHello, refused_hello
from microclaw.core.egress_rules import parse_authority, unopened
from microclaw.core.errors import UsageError
from microclaw.core.model_route import Headers
from microclaw.egress.bindings import Bindings
from microclaw.egress.connection import each_request, refuse, refuse_bad
from microclaw.egress.doors import Owner
from microclaw.egress.forward import Forward
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire
from microclaw.egress.proxy import Passage, Proxy
from microclaw.egress.refusals import Refusals
from microclaw.egress.tls_stream import OverBytes, TlsStream
from microclaw.egress.trust import Trust
from microclaw.egress.tunnel import ACCESS_DENIED, Tunnel, TunnelLimits, first_hello
from microclaw.egress.upstream import Line, Unreachable, dialled, hung_up


class Connect:
    """Takes tunnels."""

    def __init__(
        self, proxy: Proxy, forward: Forward, bindings: Bindings, trust: Trust, refusals: Refusals, *,
        limits: Limits, tunnel_limits: TunnelLimits,
    ) -> None:
        self._proxy = proxy
        self._forward = forward
        self._bindings = bindings
        self._trust = trust
        self._refusals = refusals
        self._limits = replace(limits, stall_s=tunnel_limits.idle_s)
        self._tunnel_limits = tunnel_limits

    async def handle(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """True: a tunnel was made, and is over. :raises Closed:"""
        proxy = self._proxy
        target = request.target.decode("ascii", "replace")
        if not await proxy.admit(owner, wire):
            return False
        try:
            host, port = parse_authority(target)
        except UsageError as error:
            return await proxy.deny(owner, wire, "egress.connect", target, str(error), status=400)
        passage = await proxy.check(owner, host, port, target, "bash")
        if isinstance(passage, str):
            return await proxy.deny(owner, wire, "egress.connect", f"{host}:{port}", passage)
        lent = self._bindings.lent_to(owner.group)
        with proxy.place():
            if self._trust.reads(host, port, opaque=passage.opaque, lent=lent):
                return await self._read(owner, wire, host, port, passage)
            return await self._carry(owner, wire, host, port, passage)

    # --- inside -----------------------------------------------------------------------------------------------

    async def _begin(
        self, owner: Owner, wire: Wire, host: str, port: int, headers: Headers,
    ) -> bytes:
        """Say 200, and judge the ClientHello. What was read of it; b"" = it was refused."""
        already, _ = wire.h11.trailing_data
        await wire.send(h11.Response(status_code=200, reason="Connection established", headers=headers))
        try:
            hello, seen = await first_hello(wire.reader, bytes(already), self._tunnel_limits)
            refused = refused_hello(hello, host)
        except BadHello as error:
            refused, seen = str(error), b""
        if refused:
            self._refusals.note(owner, 403, refused)
            await self._proxy.record(owner, "egress.connect", f"{host}:{port}", "deny", refused)
            await wire.write(ACCESS_DENIED)
            return b""
        return seen

    async def _carry(self, owner: Owner, wire: Wire, host: str, port: int, passage: Passage) -> bool:
        where = f"{host}:{port}"
        try:
            outside = await dialled(self._proxy.dial, passage.addresses, port, name=host)
        except Unreachable as error:
            await self._proxy.record(owner, "egress.connect", where, "failed", str(error))
            await refuse(wire, 502, str(error))
            return False
        try:
            if seen := await self._begin(owner, wire, host, port, []):
                address = outside[1].get_extra_info("peername")[0]
                await self._proxy.record(owner, "egress.connect", where, "allow", f"{address}, unopened")
                tunnel = Tunnel(self._tunnel_limits)
                outside[1].write(seen)
                tunnel.sent = len(seen)
                ended = await tunnel.carry((wire.reader, wire.writer), outside)
                if ended.startswith("cut"):
                    await self._cut(owner, where, ended, tunnel)
        finally:
            await hung_up(outside[1])
        return True

    async def _read(self, owner: Owner, wire: Wire, host: str, port: int, passage: Passage) -> bool:
        where = f"{host}:{port}"
        seen = await self._begin(owner, wire, host, port, self._trust.mark(owner))
        if not seen:
            return True
        await self._proxy.record(owner, "egress.connect", where, "allow", "read")
        inside = TlsStream(
            self._trust.context(owner, host), (wire.reader, wire.writer), first=seen,
            bytes_max=self._tunnel_limits.bytes_max,
        )
        if failed := await self._handshake(inside):
            reason = f"the program did not take egress's certificate ({failed}); {unopened(host, port, owner.group)}"
            self._refusals.note(owner, 403, reason)
            await self._proxy.record(owner, "egress.connect", where, "failed", reason)
            return True
        try:
            async with asyncio.timeout(self._tunnel_limits.total_s) as limit:
                await self._requests(owner, inside, host, port, passage)
                inside.write_eof()
                await inside.drain()
        except TimeoutError:
            if not limit.expired():
                raise
            await self._cut(owner, where, f"cut after {self._tunnel_limits.total_s:g} s", inside)
            raise Closed("its time is over") from None
        except Closed as closed:
            if isinstance(closed.__cause__, OverBytes):
                await self._cut(owner, where, str(closed.__cause__), inside)
            raise
        except OSError as error:
            raise Closed(str(error)) from error
        return True

    async def _handshake(self, inside: TlsStream) -> str:
        """Why it failed, "" = it did not."""
        try:
            async with asyncio.timeout(self._tunnel_limits.hello_s):
                await inside.handshake()
        except ssl.SSLError as error:
            return error.reason or "it hung up"
        except TimeoutError:
            return f"its handshake took longer than {self._tunnel_limits.hello_s:g} s"
        except OSError as error:
            return error.strerror or "it hung up"
        return ""

    async def _requests(self, owner: Owner, inside: TlsStream, host: str, port: int, passage: Passage) -> None:
        wire = Wire(h11.SERVER, inside, inside, self._limits)
        wire.on_refusal = lambda status, reason: self._refusals.note(owner, status, reason)
        count = 0

        async def judged(request: h11.Request) -> bool:
            nonlocal count
            count += 1
            if count > 1:
                # The first one was counted as the tunnel.
                await self._proxy.paced(owner)
            return await self._forward.inside(owner, wire, request, host, port, passage, line)

        try:
            async with Line() as line:
                await each_request(wire, judged)
        except BadMessage as bad:
            reason = bad.reason if count else f"{bad.reason}; {unopened(host, port, owner.group)}"
            outcome = "deny" if bad.status < 500 else "failed"
            await self._proxy.record(owner, "egress.http", f"{host}:{port}", outcome, reason)
            await refuse_bad(wire, bad.status, reason)
        else:
            if not count and not inside.at_eof():
                reason = f"no request came for {self._limits.keep_alive_s:g} s; {unopened(host, port, owner.group)}"
                self._refusals.note(owner, 408, reason)
                await self._proxy.record(owner, "egress.http", f"{host}:{port}", "failed", reason)

    async def _cut(self, owner: Owner, where: str, ended: str, carried: Tunnel | TlsStream) -> None:
        await self._proxy.record(
            owner, "egress.cut", where, "ok", f"{ended}; {carried.sent} out, {carried.received} in"
        )
