"""TLS over streams: towards programs whose ClientHello was read already, which asyncio's own can't take in, and towards
servers, where asyncio's keeps up to a megabyte a connection."""

from __future__ import annotations

import ssl
from contextlib import suppress

from microclaw.egress.http_messages import CHUNK_BYTES, Incoming, Outgoing


class OverBytes(OSError):
    """More than may be carried."""


class TlsStream:
    """What the other side sends and gets within TLS: `Incoming` and `Outgoing` in one.

    It holds no more than one read and one write. What is below is closed by whoever opened it.
    """

    def __init__(
        self, context: ssl.SSLContext, below: tuple[Incoming, Outgoing], *, first: bytes = b"", server: str = "",
        bytes_max: int = 1 << 62,
    ) -> None:
        """`first`: what was read already, from the ClientHello on. `server`: the name of the one that is below, whose
        certificate is verified as the context says; "" = we are the server. `bytes_max`: each way, within TLS."""
        self._reader, self._writer = below
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._came.write(first)
        self._tls = context.wrap_bio(
            self._came, self._goes, server_side=not server, server_hostname=server or None,
        )
        self._bytes_max = bytes_max
        #: Bytes from and to the other side.
        self.sent = 0
        self.received = 0
        self._ended = False

    async def handshake(self) -> None:
        """:raises OSError: it failed (`ssl.SSLError` says why), or the other side is gone."""
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            finally:
                # Also what tells the other side that it failed.
                self._pass_on()
            await self._writer.drain()
            if not done:
                await self._take_in()

    async def read(self, count: int = CHUNK_BYTES, /) -> bytes:
        """What comes next, b"" at the end. :raises OSError:"""
        while not self._ended:
            try:
                data = self._there(count)
            except ssl.SSLWantReadError:
                if self._pass_on():
                    # TLS answered by itself; who asks for that without end must take the answers.
                    await self._writer.drain()
                await self._take_in()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # Without a goodbye, too: HTTP says by itself where a message ends.
                data = b""
            self._ended = not data
            self.sent = self._counted(self.sent, data)
            return data
        return b""

    def at_eof(self) -> bool:
        """Whether the other side has said all."""
        return self._ended

    def write(self, data: bytes, /) -> None:
        """:raises OSError:"""
        self.received = self._counted(self.received, data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest):]
            self._pass_on()

    async def drain(self) -> None:
        """Until the other side takes more. :raises OSError:"""
        await self._writer.drain()

    def can_write_eof(self) -> bool:
        """TLS has an end each way."""
        return True

    def write_eof(self) -> None:
        """Say goodbye. Whoever breaks off does not, so that what was cut can't seem whole. :raises OSError:"""
        # The other side's own is not waited for.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._pass_on()

    # --- inside -----------------------------------------------------------------------------------------------

    def _there(self, count: int) -> bytes:
        """As much as came, of several records. :raises ssl.SSLError: nothing did."""
        data = self._tls.read(count)
        with suppress(ssl.SSLError):  # the next call meets it again
            while data and len(data) < count and (more := self._tls.read(count - len(data))):
                data += more
        return data

    def _counted(self, before: int, data: bytes) -> int:
        if before + len(data) > self._bytes_max:
            raise OverBytes(f"cut after {self._bytes_max} bytes")
        return before + len(data)

    def _pass_on(self) -> bool:
        if data := self._goes.read():
            self._writer.write(data)
        return bool(data)

    async def _take_in(self) -> None:
        if data := await self._reader.read(CHUNK_BYTES):
            self._came.write(data)
        else:
            self._came.write_eof()
