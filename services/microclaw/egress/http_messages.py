"""HTTP/1.1 messages over byte streams, parsed and written by h11; every wait and every size has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

import h11

#: Request line and headers together, either side.
HEAD_BYTES_MAX = 32 << 10
#: Read from a socket at once.
CHUNK_BYTES = 64 << 10
#: From the first byte of a request to the end of its headers.
HEAD_S_MAX = 10.0
#: A connection without a request.
KEEP_ALIVE_S_MAX = 60.0
#: Between two pieces of a body, and for the other side to take what we send.
STALL_S_MAX = 120.0

#: The status by which a server begins another protocol.
SWITCHING = 101


class BadMessage(Exception):
    """The other side does not speak HTTP/1.1 within our limits. `status` is what to answer a client."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Closed(Exception):
    """The other side is gone."""


class Incoming(Protocol):
    """What comes from the other side: an `asyncio.StreamReader`, or what was read out of TLS (`tls_stream.py`)."""

    async def read(self, count: int, /) -> bytes:
        """At most so many bytes, b"" at the end. :raises OSError:"""

    def at_eof(self) -> bool:
        """Whether nothing more comes."""


class Outgoing(Protocol):
    """What goes to it: an `asyncio.StreamWriter`, or what is written into TLS."""

    def write(self, data: bytes, /) -> None:
        """Take it. :raises OSError:"""

    async def drain(self) -> None:
        """Until more is taken. :raises OSError:"""

    def can_write_eof(self) -> bool:
        """Whether its end can be said by itself."""

    def write_eof(self) -> None:
        """Say it. :raises OSError:"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Time and size limits of one side; tests use smaller ones."""

    head_s: float = HEAD_S_MAX
    keep_alive_s: float = KEEP_ALIVE_S_MAX
    stall_s: float = STALL_S_MAX


class Wire:
    """One side's connection: h11's state and the streams."""

    def __init__(
        self, role: type[h11.CLIENT] | type[h11.SERVER], reader: Incoming, writer: Outgoing, limits: Limits,
    ) -> None:
        self.h11 = h11.Connection(role, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.reader = reader
        self.writer = writer
        self.limits = limits
        #: Bytes that came so far.
        self.received = 0
        #: Of the request that came last; b"" = it could not be read.
        self.method = b""
        #: Is told the status and the reason of each refusal of ours.
        self.on_refusal: Callable[[int, str], None] = lambda _status, _reason: None

    async def send(self, event: h11.Event) -> None:
        """Write one event. :raises Closed: the other side is gone, or takes nothing any more."""
        data = self.h11.send(event)
        if data:
            await self.write(data)

    async def write(self, data: bytes) -> None:
        """Write raw bytes. :raises Closed:"""
        try:
            self.writer.write(data)
            async with asyncio.timeout(self.limits.stall_s):
                await self.writer.drain()
        except (OSError, TimeoutError) as error:
            raise Closed(f"nothing is taken any more: {error}") from error

    async def read_more(self, timeout_s: float | None) -> bool:
        """Feed h11 what comes next; False at the end. :raises TimeoutError: :raises Closed:"""
        async with asyncio.timeout(timeout_s):
            try:
                data = await self.reader.read(CHUNK_BYTES)
            except OSError as error:
                raise Closed(str(error)) from error
        self.received += len(data)
        self.h11.receive_data(data)
        return bool(data)

    async def request(self) -> h11.Request | None:
        """The next request's head; None when the client has no more. :raises BadMessage: :raises Closed:"""
        self.method = b""
        begun = bool(self.h11.trailing_data[0])
        head_ends = asyncio.get_running_loop().time() + self.limits.head_s if begun else None
        while True:
            event = self._next(400)
            if isinstance(event, h11.Request):
                if event.http_version not in (b"1.0", b"1.1"):
                    raise BadMessage(400, f"not HTTP/1.1 as we take it: HTTP/{event.http_version.decode()}")
                names = {name for name, _ in event.headers}
                if names >= {b"content-length", b"transfer-encoding"}:
                    # Two ends of one body: another server might take the other one, and find a request in between.
                    raise BadMessage(400, "it says both Content-Length and Transfer-Encoding")
                self.method = event.method
                return event
            if isinstance(event, h11.ConnectionClosed):
                return None
            if event is h11.PAUSED:
                return None
            now = asyncio.get_running_loop().time()
            try:
                if not await self.read_more(self.limits.keep_alive_s if head_ends is None else head_ends - now):
                    continue
            except TimeoutError:
                if head_ends is None:
                    return None
                raise BadMessage(408, f"the request's headers took longer than {self.limits.head_s:g} s") from None
            head_ends = head_ends or now + self.limits.head_s

    async def response(self, timeout_s: float) -> h11.Response:
        """The answer's head; interim answers are dropped. :raises BadMessage: :raises TimeoutError: :raises Closed:"""
        head = await self.response_or_switch(timeout_s)
        if not isinstance(head, h11.Response):
            raise BadMessage(502, "it began another protocol")
        return head

    async def response_or_switch(self, timeout_s: float) -> h11.Response | h11.InformationalResponse:
        """The same, or a 101 where another protocol was asked for. :raises BadMessage: :raises TimeoutError:
        :raises Closed:
        """
        ends = asyncio.get_running_loop().time() + timeout_s
        while True:
            event = self._next(502)
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse) and event.status_code == SWITCHING:
                return event
            if event is h11.NEED_DATA:
                more = await self.read_more(ends - asyncio.get_running_loop().time())
                if not more and not self.h11.trailing_data[0]:
                    raise Closed("it closed the connection without an answer")

    async def body(self, bytes_max: int) -> AsyncGenerator[bytes, None]:
        """The body in the pieces in which it comes.

        :raises BadMessage: it is too long, stalls, or is not HTTP. :raises Closed:
        """
        status = 400 if self.h11.our_role is h11.SERVER else 502
        size = 0
        while True:
            event = self._next(status)
            if isinstance(event, h11.Data):
                size += len(event.data)
                if size > bytes_max:
                    raise BadMessage(413, f"the body is longer than {bytes_max} bytes")
                yield bytes(event.data)
                # What was read at once may be thousands of pieces: the others' turn comes after each of them.
                await asyncio.sleep(0)
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise Closed("it closed the connection within a body")
            else:
                try:
                    await self.read_more(self.limits.stall_s)
                except TimeoutError:
                    raise BadMessage(408, f"nothing of the body came for {self.limits.stall_s:g} s") from None

    def _next(self, status: int) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self.h11.next_event()
        except h11.RemoteProtocolError as error:
            hint = error.error_status_hint
            status = hint if status == 400 and hint else status
            raise BadMessage(status, f"not HTTP/1.1 as we take it: {error}") from None
