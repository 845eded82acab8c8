"""A WebSocket that began in a request which egress read: its frames, within the limits of a tunnel, secrets masked."""

from __future__ import annotations

import h11

from microclaw.core.websocket import BadFrame, FrameScrubber, Headers, handshake, refused_switch
from microclaw.egress.connection import refuse
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Incoming, Wire
from microclaw.egress.proxy import Proxy
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.tunnel import Tunnel, TunnelLimits


class WebSockets:
    """Carries them. Whether one may begin was decided before."""

    def __init__(self, proxy: Proxy, secrets: SecretStore, limits: TunnelLimits) -> None:
        self._proxy = proxy
        self._secrets = secrets
        self._limits = limits

    async def carry(
        self, owner: Owner, wire: Wire, outside: Wire, head: h11.InformationalResponse, kept: Headers, where: str,
    ) -> bool:
        """Pass the server's 101 on, then frames until one side ends. False: it was not to be believed.

        `kept`: what of its headers may be passed on.

        :raises Closed:
        """
        if reason := refused_switch(head.headers):
            await self._proxy.record(owner, "egress.websocket", where, "failed", reason)
            await refuse(wire, 502, f"{where}: {reason}")
            return False
        headers = [(key, self._secrets.scrubber.masked(value)) for key, value in handshake(kept)]
        await wire.send(h11.InformationalResponse(status_code=head.status_code, headers=headers))
        inside = _Frames(wire, FrameScrubber(lambda: self._secrets.scrubber, from_client=True))
        beyond = _Frames(outside, FrameScrubber(lambda: self._secrets.scrubber, from_client=False))
        tunnel = Tunnel(self._limits, ends_together=True)
        try:
            ended = await tunnel.carry((inside, wire.writer), (beyond, outside.writer))
        except BadFrame as bad:
            ended = f"cut: {bad}"
        if ended.startswith("cut"):
            detail = f"{ended}; {tunnel.sent} out, {tunnel.received} in"
            await self._proxy.record(owner, "egress.cut", where, "ok", detail)
        return True


class _Frames:
    """What comes from one side (`Incoming`), beginning with what was read behind its last message of HTTP."""

    def __init__(self, wire: Wire, scrubber: FrameScrubber) -> None:
        self._already = bytes(wire.h11.trailing_data[0])
        self._reader: Incoming = wire.reader
        self._scrubber = scrubber

    async def read(self, count: int, /) -> bytes:
        """As far as it is known. :raises BadFrame: :raises OSError:"""
        while data := self._already or await self._reader.read(count):
            self._already = b""
            if out := self._scrubber.feed(data):
                return out
        return b""

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return not self._already and self._reader.at_eof()
