"""A WebSocket that began in a request which egress read: its frames, within the limits of a tunnel, secrets masked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h11

from microclaw.core.token_bucket import Rate, TokenBucket
from microclaw.core.websocket import BadFrame, FrameScrubber, Headers, handshake, refused_switch
from microclaw.egress.connection import refuse
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Incoming, Wire
from microclaw.egress.proxy import Proxy
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.tunnel import Tunnel, TunnelLimits

#: Frames of one worker, all its WebSockets and both ways together: so many at once, then so many a second. A tiny one
#: costs as much time as a long one, and egress has other workers to serve.
FRAMES_BURST_MAX = 10_000
FRAMES_PER_S = 2000.0
#: Looked at at once: fewer frames than may come at once, and no more than take some ms, however tiny they are.
READ_BYTES_MAX = 4 << 10


class WebSockets:
    """Carries them. Whether one may begin was decided before."""

    def __init__(self, proxy: Proxy, secrets: SecretStore, limits: TunnelLimits) -> None:
        self._proxy = proxy
        self._secrets = secrets
        self._limits = limits
        #: Worker → the rate of its frames, and its WebSockets open now.
        self._rates: dict[str, tuple[TokenBucket, int]] = {}

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
        tunnel = Tunnel(self._limits, ends_together=True)
        with self._rate(owner) as rate:
            inside = _Frames(wire, FrameScrubber(lambda: self._secrets.scrubber, from_client=True), rate)
            beyond = _Frames(outside, FrameScrubber(lambda: self._secrets.scrubber, from_client=False), rate)
            try:
                ended = await tunnel.carry((inside, wire.writer), (beyond, outside.writer))
            except BadFrame as bad:
                ended = f"cut: {bad}"
        if ended.startswith("cut"):
            detail = f"{ended}; {tunnel.sent} out, {tunnel.received} in"
            await self._proxy.record(owner, "egress.cut", where, "ok", detail)
        return True


    @contextmanager
    def _rate(self, owner: Owner) -> Iterator[TokenBucket]:
        new = TokenBucket(Rate(FRAMES_PER_S, FRAMES_BURST_MAX), time.monotonic()), 0
        bucket, others = self._rates.get(owner.worker_id, new)
        self._rates[owner.worker_id] = bucket, others + 1
        try:
            yield bucket
        finally:
            _, left = self._rates.pop(owner.worker_id)
            if left > 1:
                self._rates[owner.worker_id] = bucket, left - 1


class _Frames:
    """What comes from one side (`Incoming`), beginning with what was read behind its last message of HTTP."""

    def __init__(self, wire: Wire, scrubber: FrameScrubber, rate: TokenBucket) -> None:
        self._already = bytes(wire.h11.trailing_data[0])
        self._reader: Incoming = wire.reader
        self._scrubber = scrubber
        self._rate = rate

    async def read(self, count: int, /) -> bytes:
        """As far as it is known. :raises BadFrame: :raises OSError:"""
        size = min(count, READ_BYTES_MAX)
        while data := self._already[:size] or await self._reader.read(size):
            self._already = self._already[size:]
            before = self._scrubber.frames
            out = self._scrubber.feed(data)
            await self._paid(self._scrubber.frames - before)
            # The others' turn, though there is more to read already.
            await asyncio.sleep(0)
            if out:
                return out
        return b""

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return not self._already and self._reader.at_eof()

    async def _paid(self, frames: int) -> None:
        while frames > 0:
            now_s, some = time.monotonic(), min(frames, FRAMES_BURST_MAX)
            if self._rate.take(now_s, some):
                frames -= some
            else:
                await asyncio.sleep(self._rate.wait_s(now_s, some))
