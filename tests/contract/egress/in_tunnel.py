"""What a program of a worker does in a tunnel that egress reads."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from tests.contract.egress.through_door import call, connect

#: Generous: the machine may be busy.
WAIT_S_MAX = 60


async def authority_of(door: Path) -> tuple[str, str]:
    """(certificate, fingerprint) that the worker is given."""
    got = (await call(door, b"GET /authority.pem HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")).decode()
    head, _, pem = got.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200"), head
    marks = [line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("x-egress-authority")]
    return pem, marks[0]


async def trusting(door: Path) -> ssl.SSLContext:
    """As a program that trusts the worker's authority alone, and checks as strictly as any does."""
    context = ssl.create_default_context(cadata=(await authority_of(door))[0])
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


async def begun(door: Path, host: str = "good.example", port: int = 443) -> tuple[
    asyncio.StreamReader, asyncio.StreamWriter, bytes,
]:
    """A CONNECT and its answer's head."""
    reader, writer = await connect(door)
    writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return reader, writer, await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S_MAX)


async def opened(
    door: Path, host: str = "good.example", port: int = 443, *, name: str = "", context: ssl.SSLContext | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel to `host`, with TLS in it."""
    reader, writer, head = await begun(door, host, port)
    assert head.startswith(b"HTTP/1.1 200"), head
    await writer.start_tls(context or await trusting(door), server_hostname=name or host)
    return reader, writer


async def ask(door: Path, raw: bytes, host: str = "good.example", port: int = 443) -> bytes:
    """All that is answered in a tunnel to this, until it ends."""
    reader, writer = await opened(door, host, port)
    writer.write(raw)
    got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
    writer.close()
    return got


def asking(path: str, *headers: str, host: str = "good.example", body: bytes = b"", method: str = "GET") -> bytes:
    """A request after which the connection ends."""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
