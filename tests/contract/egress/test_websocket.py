"""WebSockets in requests that egress reads: a real server by TLS, a real client at the door, and what may go wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.contract.egress.chat_server import Chat
from tests.contract.egress.in_tunnel import opened, trusting
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import KEY, QUICK_TUNNEL, call, connect, gate, until, until_written

from microclaw.agent.relay import Relay
from microclaw.core.sentinels import binding
from microclaw.egress import websocket
from microclaw.egress.dial import World
from microclaw.egress.tunnel import TunnelLimits

REAL = "ghp_a-real-value-99"
#: What egress reads: at the door itself, as a proxy, and in a tunnel. As an address for the client.
WAYS = ("/to/good.example/chat", "http://good.example/chat", "https://good.example/chat")
BEGINNING = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SWITCHED = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {}\r\n{}\r\n"


@asynccontextmanager
async def chat(home, authority, *, allow=("good.example websocket", "good.example:80 websocket"), tls=True,
               tunnel_limits: TunnelLimits = QUICK_TUNNEL):
    """(egress, a door of group home, the server)."""
    server = Chat()
    async with (
        server.running(authority.server() if tls else None) as port,
        behind(home, authority, port, allow=allow, tunnel_limits=tunnel_limits) as (egress, door),
    ):
        yield egress, door, server


@asynccontextmanager
async def behind(home, authority, port: int, *, allow=("good.example websocket",), tunnel_limits=QUICK_TUNNEL):
    outside = Outside({"good.example": [PUBLIC], "other.example": [PUBLIC]}, port)
    world = World(resolve=outside.resolve, dial=outside.dial, is_own=lambda _: False, tls=authority.client)
    async with gate(
        home, backend="local", allow=allow, world=world, tunnel_limits=tunnel_limits, read_tls="all",
    ) as egress:
        yield egress, await egress.doors.open("w1", "home", now_ms=1)


@asynccontextmanager
async def talking(door: Path, way: str = WAYS[0], **options) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A client's WebSocket: at the door itself, or as any program, through the relay as its proxy."""
    if way.startswith("https:"):
        options["ssl"] = await trusting(door)
    relay = Relay(door / "egress.sock")
    await relay.start(0)
    try:
        if way.startswith("/"):
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path=str(door / "egress.sock"))
            url, more = f"http://egress{way}", options
        else:
            connector, url, more = aiohttp.TCPConnector(), way, {**options, "proxy": f"http://127.0.0.1:{relay.port}"}
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect(url, max_msg_size=0, **more) as socket,
        ):
            yield socket
    finally:
        await relay.close()


def beginning(target: str, *headers: str, connection: str = "Upgrade") -> bytes:
    host = "good.example" if target.startswith("/chat") else "x"
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", f"Connection: {connection}", *(headers or BEGINNING), "", ""]
    return "\r\n".join(lines).encode()


async def refused(door: Path, way: str, *headers: str) -> bytes:
    """The head of the answer to a beginning."""
    if way.startswith("https:"):
        reader, writer = await opened(door)
        writer.write(beginning("/chat", *headers))
    else:
        reader, writer = await connect(door)
        writer.write(beginning(way, *headers))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    writer.close()
    return head


async def entries(egress, count: int = 1) -> list[tuple[str, str, str]]:
    return [(entry.action, entry.subject, entry.outcome) for entry in await egress.audit.tail(count)]


async def detail_of_the_cut(egress) -> str:
    return next((entry.detail for entry in await egress.audit.tail(5) if entry.action == "egress.cut"), "")


@pytest.mark.parametrize(("way", "tls", "place"), [
    (WAYS[0], True, "good.example:443"), (WAYS[1], False, "good.example:80"), (WAYS[2], True, "good.example:443"),
])
async def test_ac38_a_websocket_goes_where_a_rule_says_so_and_is_audited(home, authority, way, tls, place):
    async with chat(home, authority, tls=tls) as (egress, door, server):
        async with talking(door, way, compress=15, protocols=("chat",)) as socket:
            for text in ("hello", "", "ä" * 40_000):
                await socket.send_str(text)
                assert await socket.receive_str(timeout=10) == text
            await socket.send_bytes(bytes(range(256)) * 1500)
            assert await socket.receive_bytes(timeout=10) == bytes(range(256)) * 1500
            await socket.ping(b"are you there")
            await socket.send_str("bye")
            assert (await socket.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
        assert await entries(egress) == [("egress.websocket", place, "allow")]
        assert server.compressed == [0], "what is compressed can't be looked at: no extension is let through"
        assert server.heads[0]["sec-websocket-protocol"] == "chat"
        await until(lambda: egress.proxy.under_way == 0 and egress.connections.open == 0 and server.ended == 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("allow", [
    ("good.example", "good.example:80"), ("good.example bash", "good.example:80 bash", "*.good.example websocket"),
])
async def test_ac38_without_a_rule_for_it_no_websocket_begins_and_the_remedy_is_told(home, authority, way, allow):
    async with chat(home, authority, allow=allow) as (egress, door, server):
        await egress.rules.change("good.example", "allow", "work", now_ms=1, websocket=True)
        got = await refused(door, way)
        port = 80 if way.startswith("http:") else 443
        where = b"good.example" if port == 443 else b"good.example:80"
        assert got.startswith(b"HTTP/1.1 403")
        assert b"microclaw egress allow %s --group home --websocket`" % where in got
        assert await entries(egress) == [("egress.websocket", f"good.example:{port}", "deny")] and server.heads == []
        await egress.rules.change(where.decode(), "allow", "home", now_ms=1, websocket=True)
        if port == 443:
            async with talking(door, way) as socket:
                await socket.send_str("now")
                assert await socket.receive_str(timeout=10) == "now"
        await egress.rules.change(where.decode(), "deny", "", now_ms=1)
        if not way.startswith("https:"):
            assert b"denied by the rule" in await refused(door, way)


async def test_ac38_a_yes_for_once_and_one_for_always_are_for_no_websocket(home, authority):
    async with chat(home, authority, allow=()) as (egress, door, server):
        for answer in ("once", "always"):
            await egress.rules.change("good.example", "forget", "home", now_ms=1)
            assert b"the owner was asked" in await refused(door, WAYS[0])
            code = next(row.code for row in await egress.approvals.rows() if row.state == "pending")
            assert await egress.approvals.answer(code, answer, "cli") == ""
            assert b"--websocket" in await refused(door, WAYS[0])
        assert server.heads == []


@pytest.mark.parametrize("headers", [
    ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), ("Upgrade: websocket, h2c", *BEGINNING[1:]),
    ("Upgrade: TLS/1.0",), BEGINNING[:2], (*BEGINNING, "Content-Length: 5"), (*BEGINNING, "Transfer-Encoding: chunked"),
])
async def test_no_other_protocol_begins_wherever_a_websocket_may(home, authority, headers):
    async with chat(home, authority) as (egress, door, server):
        for way in WAYS:
            got = await refused(door, way, *headers)
            assert got.startswith(b"HTTP/1.1 403") and b"egress reads this request" in got
            assert (await entries(egress))[0][::2] == ("egress.websocket", "deny")
        assert server.heads == []


async def test_ac48_a_credential_is_lent_to_the_handshake_and_masked_when_it_comes_back(home, authority):
    async with chat(home, authority) as (egress, door, server):
        egress.secrets.set("hub", REAL)
        await egress.bindings.set(binding("hub", ["good.example"], []))
        relay = Relay(door / "egress.sock")
        stand_in = (await relay.environment({}))["MC_SECRET_HUB"]
        assert stand_in.startswith("mc-secret-")
        for way in WAYS:
            async with talking(door, way, headers={"Authorization": f"Bearer {stand_in}"}) as socket:
                await socket.send_str("whoami")
                said = await socket.receive_str(timeout=10)
            assert said.startswith("you are Bearer [REDACTED]") and REAL not in said and stand_in not in said
        assert [head["authorization"] for head in server.heads] == [f"Bearer {REAL}"] * 3
        assert ("secret.use", "hub at good.example:443", "allow") in (await entries(egress, 3))
        await egress.rules.change("other.example", "allow", "", now_ms=1, websocket=True)
        got = await refused(door, "/to/other.example/", *BEGINNING, f"Authorization: Bearer {stand_in}")
        assert got.startswith(b"HTTP/1.1 403") and b"is for good.example:443 only" in got and len(server.heads) == 3


async def test_ac48_known_secrets_are_masked_in_frames_both_ways(home, authority):
    async with chat(home, authority) as (egress, door, server):
        egress.secrets.set("llm", KEY)
        async with talking(door) as socket:
            await socket.send_str(f"my key is {KEY}!")
            said = await socket.receive_str(timeout=10)
            egress.secrets.set("later", REAL)
            await socket.send_bytes(b"\0" + REAL.encode())
            later = await socket.receive_bytes(timeout=10)
        assert KEY not in repr(server.heard) and said.startswith("my key is [REDACTED]") and said.endswith("!")
        assert REAL not in repr(server.heard) and later.startswith(b"\0[REDACTED]"), "a new secret counts at once"


async def test_an_answer_that_begins_none_passes_as_usual_and_the_connection_lives_on(home, authority):
    async with chat(home, authority) as (_egress, door, server):
        reader, writer = await connect(door)
        for number in (1, 2):
            writer.write(beginning("/to/good.example/no", connection="keep-alive, Upgrade"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            body = await asyncio.wait_for(reader.readexactly(len("who are you?")), 10)
            assert head.startswith(b"HTTP/1.1 401") and body == b"who are you?" and len(server.heads) == number
        writer.close()


@pytest.mark.parametrize(("answer", "why"), [
    (SWITCHED.format("h2c", ""), b"another protocol"),
    (SWITCHED.format("websocket", "Sec-WebSocket-Extensions: permessage-deflate\r\n"), b"extension"),
])
async def test_a_switch_that_was_not_asked_for_is_not_believed(home, upstream, authority, answer, why):
    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await reader.read()

    port = await upstream(server, tls=authority.server())
    async with behind(home, authority, port) as (egress, door):
        got = await refused(door, WAYS[0])
        assert got.startswith(b"HTTP/1.1 502") and why in got
        assert await entries(egress) == [("egress.websocket", "good.example:443", "failed")]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]])
@pytest.mark.parametrize(("limits", "why"), [
    (TunnelLimits(bytes_max=100_000, total_s=20, idle_s=10), "cut after 100000 bytes"),
    (TunnelLimits(bytes_max=1 << 30, total_s=20, idle_s=0.5), "nothing moved for 0.5 s"),
    (TunnelLimits(bytes_max=1 << 30, total_s=1, idle_s=10), "cut after 1 s"),
])
async def test_ac38_a_websocket_is_cut_at_its_size_when_idle_and_at_its_time(home, authority, limits, why, way):
    async with chat(home, authority, tunnel_limits=limits) as (egress, door, server):
        async with talking(door, way) as socket:
            begun = time.monotonic()
            while not socket.closed and time.monotonic() - begun < 10:
                if "bytes" in why:
                    await socket.send_bytes(b"x" * 10_000)
                elif "moved" not in why:
                    await socket.send_str("still here")
                message = await socket.receive(timeout=10)
                assert message.type in (
                    aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR,
                )
            assert socket.closed
        await until_written(egress, lambda entry: entry.action == "egress.cut" and why in entry.detail)
        await until(lambda: server.ended == 1)


async def test_ac44_a_flood_of_frames_is_slowed_down(home, authority, monkeypatch):
    monkeypatch.setattr(websocket, "FRAMES_BURST_MAX", 20)
    monkeypatch.setattr(websocket, "FRAMES_PER_S", 20.0)
    limits = TunnelLimits(total_s=60, idle_s=30)
    async with chat(home, authority, tunnel_limits=limits) as (_egress, door, _), talking(door) as flooding:
        begun = time.monotonic()
        for number in range(40):
            await flooding.send_str(str(number))
        for number in range(40):
            assert await flooding.receive_str(timeout=30) == str(number)
        assert time.monotonic() - begun > 2, "eighty frames, of which twenty come at once"


async def test_ac44_another_workers_frames_do_not_wait_for_a_flood(home, authority, monkeypatch):
    monkeypatch.setattr(websocket, "FRAMES_BURST_MAX", 20)
    monkeypatch.setattr(websocket, "FRAMES_PER_S", 0.1)
    limits = TunnelLimits(total_s=60, idle_s=30)
    async with chat(home, authority, tunnel_limits=limits) as (egress, door, _):
        other = await egress.doors.open("w2", "home", now_ms=1)
        # Their goodbyes wait for their turn, too: nobody waits for those.
        hasty = {"timeout": aiohttp.ClientWSTimeout(ws_close=0.1)}
        async with talking(door, **hasty) as flooding, talking(door, **hasty) as beside, talking(other) as quiet:
            for number in range(10):
                await flooding.send_str(str(number))
                assert await flooding.receive_str(timeout=10) == str(number)
            # Twenty frames: its worker has none left for ten seconds, whichever of its WebSockets they are for.
            await beside.send_str("beside")
            for number in range(8):
                await quiet.send_str(str(number))
                assert await quiet.receive_str(timeout=10) == str(number)
            with pytest.raises(TimeoutError):
                await beside.receive_str(timeout=0.3)


async def test_what_is_no_frame_does_not_pass(home, authority):
    async with chat(home, authority) as (egress, door, server):
        reader, writer = await connect(door)
        writer.write(beginning(WAYS[0]))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 101")
        writer.write(b"GET /another HTTP/1.1\r\nHost: good.example\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert "cut: a frame is of a kind" in await detail_of_the_cut(egress) and len(server.heads) == 1
        writer.close()
        await until(lambda: server.ended == 1)


async def test_frames_right_behind_a_beginning_or_its_answer_are_not_lost(home, upstream, authority):
    heard: list[bytes] = []

    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED.format("websocket", "").encode() + b"\x81\x02hi")
        heard.append(await reader.readexactly(8))

    port = await upstream(server, tls=authority.server())
    async with behind(home, authority, port) as (_egress, door):
        reader, writer = await connect(door)
        early = b"\x81\x82\0\0\0\0yo"
        writer.write(beginning(WAYS[0]) + early)
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"\r\n\r\n\x81\x02hi")
        assert heard == [early]
        writer.close()


async def test_when_one_side_is_gone_the_other_is_told_at_once(home, authority):
    limits = TunnelLimits(total_s=600, idle_s=300)
    async with chat(home, authority, tunnel_limits=limits) as (egress, door, server):
        _reader, writer = await connect(door)
        writer.write(beginning(WAYS[0]))
        await until(lambda: len(server.compressed) == 1)
        writer.transport.abort()
        await until(lambda: server.ended == 1 and egress.connections.open == 0)


async def test_when_egress_is_killed_the_websocket_ends_and_nothing_begins_in_its_place(home, authority):
    server = Chat()
    async with server.running(authority.server()) as port:
        arguments = (str(port), "1", "good.example websocket", str(authority.ca))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.egress.gate_process", *arguments], text=True,
            env={**os.environ, "MICROCLAW_HOME": str(home.data.parent)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        try:
            door = Path((await asyncio.to_thread(process.stdout.readline)).strip())
            async with talking(door) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str(timeout=10) == "hello"
                process.kill()
                message = await socket.receive(timeout=10)
                assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            await until(lambda: server.ended == 1)
            await asyncio.to_thread(process.wait)
            with pytest.raises(OSError, match=r"refused|No such file"):
                await call(door, beginning(WAYS[0]))
        finally:
            process.kill()
            process.communicate()
