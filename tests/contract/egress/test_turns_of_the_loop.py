"""One loop serves all doors: whatever one worker or one server sends, the others' turns come in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.test_websocket import beginning
from tests.contract.egress.through_door import KEY, connect, gate

#: Of a body or of a WebSocket, each a byte long.
PIECES = 20_000
#: Turns that others must have had meanwhile. Without care they have one for all that is read at once.
TURNS_MIN = PIECES // 2
CHUNKS = b"1\r\nx\r\n" * PIECES + b"0\r\n\r\n"
#: Generous: the machine may be busy.
WAIT_S_MAX = 60


@asynccontextmanager
async def counted_turns() -> AsyncIterator[list[None]]:
    """One item for each turn that somebody else would have had."""
    turns: list[None] = []

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(None)

    counting = asyncio.create_task(count())
    yield turns
    counting.cancel()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("path", ["/llm/v1/chat/completions", "http://good.example/"])
async def test_ac08_a_body_in_thousands_of_pieces_holds_up_nobody_else(home, upstream, path, way):
    async def server(reader, writer):
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen = seen[-5:] + await reader.read(1 << 16)
        kind = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + kind + (CHUNKS if way == "down" else b"0\r\n\r\n"))
        await writer.drain()

    port = await upstream(server)
    world = Outside({"good.example": [PUBLIC]}, port).world()
    async with gate(home, base_url=f"http://127.0.0.1:{port}", allow=["good.example:80"], world=world) as egress:
        egress.secrets.set("llm", KEY)
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        body = CHUNKS if way == "up" else b"0\r\n\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with counted_turns() as turns:
            writer.write(head.encode() + body)
            got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        assert got.startswith(b"HTTP/1.1 200") and got.endswith(b"0\r\n\r\n")
        assert got.count(b"x") >= (PIECES if way == "down" else 0)
        assert len(turns) > TURNS_MIN
        writer.close()


async def test_ac08_a_websocket_of_thousands_of_frames_holds_up_nobody_else(home, upstream):
    frames = b"\x82\x01x" * 8000

    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        answer = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + answer)
        writer.write(b"\r\n" + frames)
        await writer.drain()

    world = Outside({"good.example": [PUBLIC]}, await upstream(server)).world()
    async with gate(home, backend="local", allow=["good.example:80 websocket"], world=world) as egress:
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        async with counted_turns() as turns:
            writer.write(beginning("http://good.example/chat"))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S_MAX)
            begun = len(turns)
            assert await asyncio.wait_for(reader.readexactly(len(frames)), WAIT_S_MAX) == frames
        assert len(turns) - begun > 5
        writer.close()
