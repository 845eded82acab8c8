"""A connection to a server outside: verified TLS or plain, every wait bounded, and why it failed in one line."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import h11

from microclaw.core.errors import MicroclawError
from microclaw.egress.http_messages import CHUNK_BYTES, Limits, Wire
from microclaw.egress.tls_stream import TlsStream

#: TCP, all addresses of a name; and as long again for TLS.
CONNECT_S_MAX = 15.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Open a connection to (host or address, port). :raises OSError:
Dial = Callable[[str, int], Awaitable[Streams]]


class Unreachable(MicroclawError):
    """The server outside can't be reached."""


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
