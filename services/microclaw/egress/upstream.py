"""A connection to a server outside: verified TLS or plain, every wait bounded, and why it failed in one line."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Self

import h11

from microclaw.core.errors import MicroclawError
from microclaw.egress.http_messages import CHUNK_BYTES, Limits, Wire
from microclaw.egress.tls_stream import TlsStream

_BOTH_DONE = {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

#: TCP, all addresses of a name; and as long again for TLS.
CONNECT_S_MAX = 15.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Open a connection to (host or address, port). :raises OSError:
Dial = Callable[[str, int], Awaitable[Streams]]


class Unreachable(MicroclawError):
    """The server outside can't be reached."""


class Stale(Unreachable):
    """Nothing of the answer came: if it was a kept connection, the server had given it up."""


class Line:
    """The way to one server, for requests one after the other: its connection is kept for the next one, where HTTP lets
    it be used again. Hung up with its context."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._wire: Wire | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def kept(self) -> Wire | None:
        """The connection of the request before, for one more; the server may have closed it meanwhile."""
        if self._wire is None or self._wire.reader.at_eof():
            return None
        self._wire.h11.start_next_cycle()
        return self._wire

    async def new(self, connecting: AbstractAsyncContextManager[Wire]) -> Wire:
        """Another one in its place. :raises Unreachable:"""
        self._wire = None
        await self._open.aclose()
        self._wire = await self._open.enter_async_context(connecting)
        return self._wire

    async def rest(self) -> None:
        """The request is over: keep the connection if both sides said all of it and will go on, else hang up."""
        wire = self._wire
        if wire is None or wire.h11.states != _BOTH_DONE or wire.h11.trailing_data[0]:
            self._wire = None
            await self._open.aclose()


async def dial_plain(host: str, port: int) -> Streams:
    """TCP."""
    return await asyncio.open_connection(host, port, limit=CHUNK_BYTES)


async def dialled(
    dial: Dial, addresses: Sequence[str], port: int, *, name: str, connect_s: float = CONNECT_S_MAX,
) -> Streams:
    """A connection to the first of `addresses` that takes it. :raises Unreachable: says why none does."""
    reasons: list[str] = []
    try:
        async with asyncio.timeout(connect_s):
            for address in addresses:
                try:
                    return await dial(address, port)
                except OSError as error:
                    reasons.append(error.strerror or str(error))
    except TimeoutError:
        reasons.append(f"no connection within {connect_s:g} s")
    raise Unreachable(f"{name}:{port} can't be reached: {'; '.join(dict.fromkeys(reasons))}")


@asynccontextmanager
async def connected(
    dial: Dial, addresses: Sequence[str], port: int, *, name: str, limits: Limits, tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Wire]:
    """The same, to speak HTTP over; closed at the end. `tls`: begun after the dial, the certificate being `name`'s.

    :raises Unreachable:
    """
    reader, writer = await dialled(dial, addresses, port, name=name)
    try:
        if tls is None:
            yield Wire(h11.CLIENT, reader, writer, limits)
        else:
            inside = TlsStream(tls, (reader, writer), server=name)
            await _shake_hands(inside, name, port)
            yield Wire(h11.CLIENT, inside, inside, limits)
    finally:
        await hung_up(writer)


async def _shake_hands(inside: TlsStream, name: str, port: int) -> None:
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            await inside.handshake()
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        why = f"TLS failed: {error.reason or 'connection cut'}"
    except TimeoutError:
        why = f"no TLS within {CONNECT_S_MAX:g} s"
    except OSError as error:
        why = f"TLS failed: {error.strerror or 'connection cut'}"
    else:
        return
    raise Unreachable(f"{name}:{port} can't be reached: {why}")


async def hung_up(writer: asyncio.StreamWriter) -> None:
    """Close at once. What is still on its way is of no use: no goodbye that a dead server could delay."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
