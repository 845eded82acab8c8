"""One HTTP exchange with a server outside: connect, send, take the answer; verified TLS, every wait bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import h11

from microclaw.core.errors import MicroclawError
from microclaw.egress.http_messages import CHUNK_BYTES, Limits, Wire

#: TCP and TLS together.
CONNECT_S_MAX = 15.0


class Unreachable(MicroclawError):
    """The server outside can't be reached."""


@asynccontextmanager
async def connected(
    hosts: Sequence[str], port: int, *, name: str, tls: ssl.SSLContext | None, limits: Limits,
    connect_s: float = CONNECT_S_MAX,
) -> AsyncIterator[Wire]:
    """A connection to the first of `hosts` (addresses, or one name) that takes it; closed at the end.

    `name` is what its certificate must be for. :raises Unreachable: says why.
    """
    reader, writer = await dialled(hosts, port, name=name, tls=tls, connect_s=connect_s)
    try:
        yield Wire(h11.CLIENT, reader, writer, limits)
    finally:
        # What is still on its way is of no use to anyone: no polite goodbye that a dead server could delay.
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def dialled(
    hosts: Sequence[str], port: int, *, name: str, tls: ssl.SSLContext | None, connect_s: float = CONNECT_S_MAX,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of a new connection. :raises Unreachable:"""
    reasons: list[str] = []
    try:
        async with asyncio.timeout(connect_s):
            for host in hosts:
                try:
                    return await asyncio.open_connection(
                        host, port, ssl=tls, server_hostname=name if tls else None, limit=CHUNK_BYTES,
                    )
                except ssl.SSLCertVerificationError as error:
                    reasons.append(f"its certificate is not accepted: {error.verify_message}")
                except ssl.SSLError as error:
                    reasons.append(f"TLS failed: {error.reason or 'connection cut'}")
                except OSError as error:
                    reasons.append(error.strerror or str(error))
    except TimeoutError:
        reasons.append(f"no connection within {connect_s:g} s")
    raise Unreachable(f"{name}:{port} can't be reached: {'; '.join(dict.fromkeys(reasons))}")
