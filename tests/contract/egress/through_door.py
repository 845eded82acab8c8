"""What a worker does at its door, and all of egress but the bus behind it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from microclaw.core.audit import Entry
from microclaw.core.egress_rules import ReadTls
from microclaw.core.home import Home
from microclaw.core.settings import Budget, Egress, Model, Settings
from microclaw.egress.dial import World
from microclaw.egress.gate import Gate
from microclaw.egress.http_messages import Limits
from microclaw.egress.tunnel import TunnelLimits

#: The canary: no test may ever see it on the worker's side, in a log or in the audit log.
KEY = "sk-ant-canary-4f9aXQ7+/zz"
QUICK = Limits(head_s=0.5, keep_alive_s=2.0, stall_s=2.0)
QUICK_TUNNEL = TunnelLimits(hello_s=0.5, bytes_max=64 << 20, total_s=20.0, idle_s=5.0)


@asynccontextmanager
async def gate(
    home: Home, *, base_url: str = "", backend: Literal["local", "scripted", "anthropic", "openai"] = "openai",
    key: str = "llm", allow: Iterable[str] = (),
    world: World | None = None, limits: Limits = QUICK, tunnel_limits: TunnelLimits = QUICK_TUNNEL,
    budget: Budget | None = None, read_tls: ReadTls = "none",
) -> AsyncIterator[Gate]:
    """The whole of egress but the bus."""
    settings = Settings(
        model=Model(backend=backend, name="m", base_url=base_url, key=key),
        egress=Egress(allow=tuple(allow), read_tls=read_tls), budget=budget or Budget(),
    )
    made = Gate(settings, home, world=world or World(), limits=limits, tunnel_limits=tunnel_limits)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def connect(door: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As a worker connects."""
    return await asyncio.open_unix_connection(str(door / "egress.sock"))


async def call(door: Path, raw: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Send this, and read until the door closes the connection."""
    reader, writer = await connect(door)
    writer.write(raw)
    async with asyncio.timeout(timeout_s):
        answer = await reader.read()
    writer.close()
    return answer


def post(path: str, body: bytes, *, headers: str = "") -> bytes:
    """A worker's request, connection closed after it."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: egress\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(head, body) as a server outside sees a request with a Content-Length or none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def until_written(egress: Gate, as_wanted: Callable[[Entry], bool], *, within_s: float = 10.0) -> None:
    """Wait until the newest entry of the audit log is as wanted."""
    ends = time.monotonic() + within_s
    while not any(map(as_wanted, newest := await egress.audit.tail(1))):
        assert time.monotonic() < ends, f"it was not written in time; the newest entry is {newest}"
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
