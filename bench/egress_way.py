"""A request through egress's door beside the same request sent directly."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from tests.contract.egress.authority import make_authority
from tests.contract.egress.in_tunnel import trusting
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import KEY, gate, post, read_request

from microclaw.agent.relay import Relay
from microclaw.core.home import Home
from microclaw.egress.gate import Gate
from microclaw.store.migrate import upgrade

Request = Callable[[], Awaitable[None]]
ANSWER = b'{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1}}'
#: A prompt of usual length.
BODY = b'{"model":"m","messages":[' + b" " * 8000 + b"]}"
PATH = "/llm/v1/chat/completions"
#: What a small request to an API is answered.
PAGE = b"{" + b" " * 2000 + b"}"
#: Tunnels of one door in a row.
BY_ONE_DOOR = 200


async def measure(home: Home, folder: Path, requests: int) -> dict[str, float]:
    """Medians, ms, in turns."""
    upgrade(home)
    authority = make_authority(folder, ("good.example",))
    model = await asyncio.start_server(_model, "127.0.0.1", 0)
    page = await asyncio.start_server(_page, "127.0.0.1", 0, ssl=authority.server())
    model_port, page_port = (server.sockets[0].getsockname()[1] for server in (model, page))
    servers = authority.client()
    world = replace(Outside({"good.example": [PUBLIC]}, page_port).world(), tls=lambda: servers)
    found: dict[str, float] = {}
    try:
        async with gate(
            home, base_url=f"http://127.0.0.1:{model_port}", allow=["good.example"], world=world, read_tls="none",
        ) as egress:
            egress.secrets.set("llm", KEY)
            door = await egress.doors.open("m", "bench", now_ms=1)
            direct, by_door = await _in_turns(
                requests, lambda _: _direct_call(model_port), lambda _: _door_call(door),
            )
            found |= {
                "model_call_direct_ms": direct, "model_call_by_door_ms": by_door,
                "model_call_added_ms": by_door - direct,
            }
            found |= await _tunnels(egress, "unopened", requests, page_port, servers)
        async with gate(home, backend="local", allow=["good.example"], world=world, read_tls="all") as egress:
            found |= await _tunnels(egress, "read", requests, page_port, servers)
    finally:
        model.close()
        page.close()
    return found


async def _tunnels(
    egress: Gate, kind: str, requests: int, port: int, servers: ssl.SSLContext,
) -> dict[str, float]:
    """An HTTPS request by tunnels of this kind, at doors and by relays, each in turns with the same sent directly."""
    ways: list[tuple[Path, Relay, ssl.SSLContext]] = []
    # Doors are rate-limited: each takes as many tunnels as it may at once.
    for number in range(2 * (requests // BY_ONE_DOOR + 1)):
        door = await egress.doors.open(f"{kind}-{number}", "bench", now_ms=1)
        relay = Relay(door / "egress.sock")
        await relay.start(0)
        ways.append((door, relay, await trusting(door) if kind == "read" else servers))
    half = len(ways) // 2

    async def by_door(number: int) -> None:
        door, _, context = ways[number // BY_ONE_DOOR]
        await _by_tunnel(*await asyncio.open_unix_connection(str(door / "egress.sock")), context)

    async def by_relay(number: int) -> None:
        _, relay, context = ways[half + number // BY_ONE_DOOR]
        await _by_tunnel(*await asyncio.open_connection("127.0.0.1", relay.port), context)

    async def directly(_number: int) -> None:
        await _page_of(*await asyncio.open_connection("127.0.0.1", port), servers)

    direct, door_ms = await _in_turns(requests, directly, by_door)
    _, relay_ms = await _in_turns(requests, directly, by_relay)
    for _, relay, _ in ways:
        await relay.close()
    return {
        f"https_direct_beside_{kind}_ms": direct, f"https_{kind}_by_door_ms": door_ms,
        f"https_{kind}_added_ms": door_ms - direct, f"https_{kind}_by_relay_ms": relay_ms,
    }


async def _in_turns(
    requests: int, one: Callable[[int], Awaitable[None]], other: Callable[[int], Awaitable[None]],
) -> tuple[float, float]:
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(requests):
        for times, way in zip(took, (one, other), strict=True):
            begin = time.perf_counter()
            await way(number)
            times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(took[0]), statistics.median(took[1])


async def _direct_call(port: int) -> None:
    await _call(*await asyncio.open_connection("127.0.0.1", port))


async def _door_call(door: Path) -> None:
    await _call(*await asyncio.open_unix_connection(str(door / "egress.sock")))


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(post(PATH, BODY))
    head = await reader.readuntil(b"\r\n\r\n")
    # Until the answer is whole, as an SDK waits: what egress notes down afterwards holds nobody up.
    if not head.startswith(b"HTTP/1.1 200") or await reader.readexactly(len(ANSWER)) != ANSWER:
        raise RuntimeError(f"the call failed: {head!r}")
    writer.close()


async def _by_tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext,
) -> None:
    writer.write(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the tunnel was refused: {head!r}")
    await _page_of(reader, writer, context)


async def _page_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    await writer.start_tls(context, server_hostname="good.example")
    writer.write(b"GET /page HTTP/1.1\r\nHost: good.example\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or await reader.readexactly(len(PAGE)) != PAGE:
        raise RuntimeError(f"no page: {head!r}")
    writer.close()


async def _model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(ANSWER) + ANSWER)
    await writer.drain()
    writer.close()


async def _page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)
    await writer.drain()
    writer.close()
