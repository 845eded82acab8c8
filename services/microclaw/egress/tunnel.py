"""A tunnel: the bytes of a TLS connection, from its ClientHello on, within limits of size and time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from microclaw.core.client_hello import HELLO_BYTES_MAX, BadHello, Hello, read_hello
from microclaw.egress.http_messages import CHUNK_BYTES, Incoming, Outgoing
from microclaw.egress.tls_stream import OverBytes

#: For the ClientHello, from the 200 on.
HELLO_S_MAX = 10.0
#: One tunnel, each way.
TUNNEL_BYTES_MAX = 2 << 30
TUNNEL_S_MAX = 3600.0
#: Nothing moved in either direction.
IDLE_S_MAX = 300.0

#: A TLS alert `fatal, access_denied` (RFC 8446 section 6): what a client shows when a tunnel is refused after the 200.
ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """Of one tunnel; tests use smaller ones."""

    hello_s: float = HELLO_S_MAX
    bytes_max: int = TUNNEL_BYTES_MAX
    total_s: float = TUNNEL_S_MAX
    idle_s: float = IDLE_S_MAX


async def first_hello(reader: Incoming, already: bytes, limits: TunnelLimits) -> tuple[Hello, bytes]:
    """(the ClientHello, all bytes read so far). :raises BadHello: none came in time, or none that can be read."""
    seen = already
    try:
        async with asyncio.timeout(limits.hello_s):
            while (hello := read_hello(seen)) is None:
                more = await reader.read(HELLO_BYTES_MAX)
                if not more:
                    raise BadHello("the connection ended before a ClientHello")
                seen += more
    except TimeoutError:
        raise BadHello(f"no ClientHello within {limits.hello_s:g} s") from None
    return hello, seen


class Tunnel:
    """Both directions of one tunnel."""

    def __init__(self, limits: TunnelLimits, *, ends_together: bool = False) -> None:
        """`ends_together`: when one side has said all, the other has nothing more to say."""
        self._limits = limits
        self._ends_together = ends_together
        self._moved_at = 0.0
        #: Bytes from and to the worker.
        self.sent = 0
        self.received = 0

    async def carry(
        self, inside: tuple[Incoming, Outgoing], outside: tuple[Incoming, Outgoing],
    ) -> str:
        """Until both sides are done or a limit is reached. Returns how it ended."""
        loop = asyncio.get_running_loop()
        self._moved_at = loop.time()
        up = asyncio.ensure_future(self._copy(inside[0], outside[1], up=True))
        down = asyncio.ensure_future(self._copy(outside[0], inside[1], up=False))
        ends_at = loop.time() + self._limits.total_s
        try:
            while not (up.done() and down.done()):
                now = loop.time()
                idle_until = self._moved_at + self._limits.idle_s
                if now >= ends_at:
                    return f"cut after {self._limits.total_s:g} s"
                if now >= idle_until:
                    return f"cut: nothing moved for {self._limits.idle_s:g} s"
                done, _ = await asyncio.wait(
                    {task for task in (up, down) if not task.done()}, timeout=min(ends_at, idle_until) - now,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if (ended := task.result()) or self._ends_together:
                        return ended or "closed"
            return "closed"
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _copy(self, reader: Incoming, writer: Outgoing, *, up: bool) -> str:
        """One direction. "" = its end was passed on; else why the tunnel ends."""
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(CHUNK_BYTES):
                self._moved_at = loop.time()
                self.sent += len(data) if up else 0
                self.received += 0 if up else len(data)
                if max(self.sent, self.received) > self._limits.bytes_max:
                    return f"cut after {self._limits.bytes_max} bytes"
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OverBytes as over:
            return str(over)
        except OSError:
            return "broken off"
        return ""
