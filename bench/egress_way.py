"""A request through egress's door beside the same request sent directly."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.contract.egress.authority import make_authority
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import KEY, gate, post, read_request

from microclaw.agent.relay import Relay
from microclaw.core.home import Home
from microclaw.store.migrate import upgrade

Request = Callable[[], Awaitable[None]]
ANSWER = b'{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1}}'
#: A prompt of usual length.
BODY = b'{"model":"m","messages":[' + b" " * 8000 + b"]}"
PATH = "/llm/v1/chat/completions"


async def measure(home: Home, folder: Path, requests: int) -> dict[str, float]:
    """Medians, ms, in turns."""
    upgrade(home)
    authority = make_authority(folder, ("good.example",))
    model = await asyncio.start_server(_model, "127.0.0.1", 0)
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=authority.server())
    model_port, echo_port = (server.sockets[0].getsockname()[1] for server in (model, echo))
    world = Outside({"good.example": [PUBLIC]}, echo_port).world()
    context = authority.client()
    try:
        async with gate(
            home, base_url=f"http://127.0.0.1:{model_port}", allow=["good.example"], world=world
        ) as egress:
            egress.secrets.set("llm", KEY)
            # Doors are rate-limited: each takes as many tunnels as it may at once.
            doors = [await egress.doors.open(f"w{n}", "bench", now_ms=1) for n in range(requests // 200 + 1)]
            direct_model, door_model = await _in_turns(
                requests, lambda _: _direct_call(model_port), lambda _: _door_call(doors[0]),
            )
            direct_tls, door_tls = await _in_turns(
                requests, lambda _: _direct_line(echo_port, context),
                lambda number: _door_line(doors[number // 200], context),
            )
            relays = []
            for n in range(len(doors)):
                relays.append(Relay(await egress.doors.open(f"r{n}", "bench", now_ms=1) / "egress.sock"))
                await relays[n].start(0)
            _, relay_tls = await _in_turns(
                requests, lambda _: _direct_line(echo_port, context),
                lambda number: _relay_line(relays[number // 200].port, context),
            )
            for relay in relays:
                await relay.close()
    finally:
        model.close()
        echo.close()
    return {
        "model_call_direct_ms": direct_model, "model_call_by_door_ms": door_model,
        "model_call_added_ms": door_model - direct_model,
        "tls_direct_ms": direct_tls, "tls_by_door_ms": door_tls, "tls_added_ms": door_tls - direct_tls,
        "tls_by_relay_ms": relay_tls,
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


async def _direct_line(port: int, context: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await _line(reader, writer, context)


async def _door_line(door: Path, context: ssl.SSLContext) -> None:
    await _tunnel_line(*await asyncio.open_unix_connection(str(door / "egress.sock")), context)


async def _relay_line(port: int, context: ssl.SSLContext) -> None:
    await _tunnel_line(*await asyncio.open_connection("127.0.0.1", port), context)


async def _tunnel_line(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext,
) -> None:
    writer.write(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the tunnel was refused: {head!r}")
    await _line(reader, writer, context)


async def _line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    await writer.start_tls(context, server_hostname="good.example")
    writer.write(b"hello\n")
    if await reader.readline() != b"hello\n":
        raise RuntimeError("no echo")
    writer.close()


async def _model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(ANSWER) + ANSWER)
    await writer.drain()
    writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
