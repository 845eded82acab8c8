"""`/llm/…` over a real door to a real (ours) model server."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl

import pytest
from tests.contract.egress.through_door import (
    KEY,
    call,
    connect,
    free_port,
    gate,
    post,
    read_request,
    until,
    until_written,
)

from microclaw.core.scrub import mask
from microclaw.egress import model_route
from microclaw.egress.dial import World
from microclaw.egress.http_messages import Limits

SSE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":12,'
    b'"cache_read_input_tokens":5,"cache_creation_input_tokens":2,"output_tokens":1}}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"hello"}}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)


def answer(body: bytes, *, status: str = "200 OK", kind: str = "application/json", headers: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


async def test_the_placeholder_is_replaced_by_the_real_key_in_both_dialects(home, upstream):
    seen: list[bytes] = []

    async def server(reader, writer):
        head, body = await read_request(reader)
        seen.append(head + body)
        writer.write(answer(b"{}"))

    port = await upstream(server)
    for backend, path, header in (
        ("anthropic", "/llm/v1/messages?beta=true", b"x-api-key: " + KEY.encode()),
        ("openai", "/llm/v1/chat/completions", b"authorization: Bearer " + KEY.encode()),
        ("openai", "/llm/chat/completions", b"authorization: Bearer " + KEY.encode()),
    ):
        async with gate(home, backend=backend, base_url=f"http://127.0.0.1:{port}") as egress:
            egress.secrets.set("llm", KEY)
            door = await egress.doors.open("w1", "home", now_ms=1)
            got = await call(door, post(path, b'{"a":1}', headers="x-api-key: placeholder\r\nCookie: c\r\n"
                                                                  "Authorization: Bearer placeholder\r\n"))
            assert got.startswith(b"HTTP/1.1 200")
            await egress.doors.close(("w1",))
        head = seen.pop()
        assert header in head
        assert b"placeholder" not in head and b"cookie" not in head.lower()
        assert path.split("/")[-1].encode() in head.split(b"\r\n")[0] and b" /v1/" in head
        assert head.endswith(b'{"a":1}')


async def test_an_event_stream_passes_event_by_event_and_is_metered(home, upstream):
    go_on = asyncio.Event()

    async def server(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in SSE:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.wait_for(go_on.wait(), 10)
            go_on.clear()
        writer.write(b"0\r\n\r\n")

    port = await upstream(server)
    async with gate(home, backend="anthropic", base_url=f"http://127.0.0.1:{port}") as egress:
        egress.secrets.set("llm", KEY)
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        writer.write(post("/llm/v1/messages", b"{}"))
        got = b""
        for event in SSE[:-1]:
            # The next event is sent only after this one arrived whole: nothing is held back or collected.
            async with asyncio.timeout(5):
                while event not in got:
                    got += await reader.read(4096)
            go_on.set()
        # But for the last one, at which a client goes on: it comes when the call is written down.
        await until(lambda: not go_on.is_set())
        assert b"message_stop" in SSE[-1] and not await egress.meter.rows()
        go_on.set()
        async with asyncio.timeout(5):
            while SSE[-1] not in got:
                got += await reader.read(4096)
        assert [entry.outcome for entry in await egress.audit.tail(9) if entry.action == "model.call"] == ["200"]
        (row,) = await egress.meter.rows()
        assert (row.group, row.model, row.calls, row.unknown_calls) == ("home", "claude-x", 1, 0)
        assert (row.input_tokens, row.output_tokens) == (19, 7)
        assert (row.cache_read_tokens, row.cache_write_tokens) == (5, 2)
        writer.close()


async def test_ac48_the_key_is_nowhere_in_what_an_echoing_server_answers(home, upstream, caplog):
    raw = KEY.encode()

    async def server(reader, writer):
        head, _ = await read_request(reader)
        encoded = base64.b64encode(b"x" + head)
        body = json.dumps({"you sent": head.decode()}).encode() + b"|" + encoded + b"|" + raw.hex().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: " + raw + b"\r\nContent-Length: %d\r\n\r\n" % len(body))
        # In the smallest pieces that there are: the key is split at every place.
        for at in range(len(body)):
            writer.write(body[at:at + 1])
            await writer.drain()

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}") as egress:
        egress.secrets.set("llm", KEY)
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert b"[REDACTED]" in got and got.startswith(b"HTTP/1.1 200")
        assert raw not in got and raw.hex().encode() not in got
        body = got.partition(b"\r\n\r\n")[2].split(b"|")[1]
        assert raw not in base64.b64decode(body.replace(mask(10), b"A" * 10).replace(b"*", b"A"))
        rows = await egress.audit.tail(100)
        assert rows and "masked" in rows[-1].detail
        assert KEY not in repr(rows)
    assert KEY not in caplog.text
    found = [path.name for path in (home.data.parent).rglob("*") if path.is_file() and raw in path.read_bytes()]
    assert found == ["llm"], "only the secret's own file holds the key"


async def test_ac48_a_secret_typed_into_a_chat_does_not_leave_in_a_prompt(home, upstream):
    seen: list[bytes] = []

    async def server(reader, writer):
        seen.append((await read_request(reader))[1])
        writer.write(answer(b"{}"))

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        egress.secrets.set("other", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        body = json.dumps({"content": f"my key is {KEY}."}).encode()
        assert (await call(door, post("/llm/v1/chat/completions", body))).startswith(b"HTTP/1.1 200")
        assert len(seen[0]) == len(body) and KEY.encode() not in seen[0] and b"[REDACTED]" in seen[0]
        got = await call(door, post(f"/llm/v1/chat/completions?q={KEY}", body))
        assert got.startswith(b"HTTP/1.1 403")
        got = await call(door, post("/llm/v1/chat/completions", body, headers=f"X-A: {KEY}\r\n"))
        assert got.startswith(b"HTTP/1.1 403")
        assert len(seen) == 1


async def test_an_error_of_the_provider_passes_as_it_is(home, upstream):
    async def server(reader, writer):
        await read_request(reader)
        writer.write(answer(b'{"error":{"type":"authentication_error"}}', status="401 Unauthorized",
                            headers="Retry-After: 7\r\n"))

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}") as egress:
        egress.secrets.set("llm", KEY)
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert got.startswith(b"HTTP/1.1 401") and b"retry-after: 7" in got.lower()
        assert got.endswith(b'{"error":{"type":"authentication_error"}}')
        assert await egress.meter.rows() == []


async def test_a_server_that_is_down_is_a_502_in_the_dialects_form(home):
    async with gate(home, backend="anthropic", base_url=f"http://127.0.0.1:{free_port()}", key="") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/messages", b"{}"))
        assert got.startswith(b"HTTP/1.1 502")
        error = json.loads(got.partition(b"\r\n\r\n")[2])
        assert error["type"] == "error" and error["error"]["type"] == "api_error"
        assert "not reachable" in error["error"]["message"]


async def test_without_its_key_the_call_is_a_401_that_says_what_to_do(home, upstream):
    async with gate(home, base_url="") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert got.startswith(b"HTTP/1.1 401") and b"microclaw secrets set llm" in got


async def test_only_model_calls_get_the_key(home, upstream):
    async def server(reader, writer):
        raise AssertionError("nothing may arrive here")

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}") as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        for path in ("/llm/v1/files", "/llm/v1/organization/admin_api_keys", "/llm/v1/chat/completions/../files",
                     "/llm/v1/chat/completions%2f..%2ffiles", "/llm", "/llm//v1/chat/completions"):
            assert (await call(door, post(path, b"{}"))).startswith(b"HTTP/1.1 403"), path
        assert (await call(door, post("/other", b"{}"))).startswith(b"HTTP/1.1 404")


async def test_an_answer_cut_in_the_middle_does_not_seem_whole(home, upstream):
    async def server(reader, writer):
        await read_request(reader)
        # The second piece: the last one is kept back, as it might be the end.
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nagain\r\n")
        await writer.drain()

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert b"hello" in got and not got.endswith(b"0\r\n\r\n")
        await until_written(egress, lambda entry: entry.outcome == "cut")


async def test_an_answer_without_end_is_cut_at_its_size(home, upstream, monkeypatch):
    async def server(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    monkeypatch.setattr(model_route, "ANSWER_BYTES_MAX", 300_000)
    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert 0 < len(got) < 400_000
        await until_written(egress, lambda entry: entry.outcome == "cut")
        assert "longer than 300000 bytes" in (await egress.audit.tail(1))[-1].detail


@pytest.mark.parametrize("begins", [False, True])
async def test_a_call_ends_when_its_time_is_over(home, upstream, monkeypatch, begins):
    async def server(reader, writer):
        await read_request(reader)
        if begins:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        while True:
            writer.write(b"x" if begins else b"")
            await asyncio.sleep(0.05)

    monkeypatch.setattr(model_route, "CALL_S_MAX", 0.5)
    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/chat/completions", b"{}"))
        assert got.startswith(b"HTTP/1.1 200" if begins else b"HTTP/1.1 504"), got
        assert b"no answer within" in got or begins
        await until_written(egress, lambda entry: "ended within 0.5 s" in entry.detail)


async def test_a_worker_that_goes_away_ends_the_call(home, upstream):
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def server(reader, writer):
        await read_request(reader)
        begun.set()
        await reader.read()
        ended.set()

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        _, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        writer.write(post("/llm/v1/chat/completions", b"{}"))
        await asyncio.wait_for(begun.wait(), 5)
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_connection_is_used_for_several_calls(home, upstream):
    async def server(reader, writer):
        await read_request(reader)
        writer.write(answer(b"{}"))

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="") as egress:
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        for _ in range(3):
            writer.write(post("/llm/v1/chat/completions", b"{}").replace(b"Connection: close\r\n", b""))
            head, body = await asyncio.wait_for(read_request(reader), 5)
            assert head.startswith(b"HTTP/1.1 200") and body == b"{}"
        writer.close()


async def test_a_rotated_key_is_used_by_the_next_call(home, upstream):
    seen: list[bytes] = []

    async def server(reader, writer):
        head, _ = await read_request(reader)
        seen.append(head)
        writer.write(answer(b"{}"))

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}") as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        for key in (KEY, KEY[::-1]):
            egress.secrets.set("llm", key)
            await call(door, post("/llm/v1/chat/completions", b"{}"))
            assert key.encode() in seen[-1]


async def test_no_model_configured_is_said(home):
    async with gate(home, backend="local") as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), post("/llm/v1/messages", b"{}"))
        assert got.startswith(b"HTTP/1.1 404") and b"no model is configured" in got


async def test_a_server_with_tls_must_have_the_right_certificate(home, upstream, authority):
    async def server(reader, writer):
        await read_request(reader)
        writer.write(answer(b"{}"))

    port = await upstream(server, tls=authority.server())
    for name, context, expected in (
        ("localhost", authority.client, b"HTTP/1.1 200"),
        ("127.0.0.1", authority.client, b"HTTP/1.1 502"),
        ("localhost", ssl.create_default_context, b"HTTP/1.1 502"),
    ):
        async with gate(home, base_url=f"https://{name}:{port}", key="", world=World(tls=context)) as egress:
            door = await egress.doors.open("w1", "home", now_ms=1)
            got = await call(door, post("/llm/v1/chat/completions", b"{}"))
            assert got.startswith(expected)
            assert (b"certificate is not accepted" in got) is (expected == b"HTTP/1.1 502")


async def test_a_worker_that_does_not_read_stops_the_server_and_not_our_memory(home, upstream):
    sent = 0
    piece = b"x" * 65536

    async def server(reader, writer):
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (400 * len(piece)))
        for _ in range(400):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="", limits=Limits()) as egress:
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        writer.write(post("/llm/v1/chat/completions", b"{}"))
        before = -1
        while before != sent or sent == 0:
            before = sent
            await asyncio.sleep(0.3)
        # What the kernel's buffers hold is not ours; all 25 MiB is not in them.
        assert sent < 16 << 20
        got = await asyncio.wait_for(reader.read(), 30)
        assert len(got) > 400 * len(piece)
        writer.close()


async def test_a_long_prompt_streams_through(home, upstream):
    size = 0

    async def server(reader, writer):
        nonlocal size
        size = len((await read_request(reader))[1])
        writer.write(answer(b"{}"))

    port = await upstream(server)
    async with gate(home, base_url=f"http://127.0.0.1:{port}", key="", limits=Limits()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        got = await call(door, post("/llm/v1/chat/completions", b"x" * (9 << 20)), timeout_s=30)
        assert got.startswith(b"HTTP/1.1 200") and size == 9 << 20
        got = await call(door, post("/llm/v1/chat/completions", b"").replace(b"Length: 0", b"Length: 99999999999"))
        assert got.startswith(b"HTTP/1.1 413")


async def test_the_official_sdks_speak_through_a_door_with_a_placeholder(home, upstream):
    anthropic = pytest.importorskip("anthropic", reason="the agent extra is not installed")
    openai = pytest.importorskip("openai", reason="the agent extra is not installed")
    httpx = pytest.importorskip("httpx2", reason="the agent extra is not installed")
    heads: list[bytes] = []

    async def server(reader, writer):
        head, _ = await read_request(reader)
        heads.append(head)
        if b"/v1/messages" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            writer.write(b"".join(SSE))
        elif len(heads) == 2:
            writer.write(answer(b'{"error":{"message":"slow down"}}', status="429 Too Many Requests"))
        else:
            writer.write(answer(b'{"id":"1","object":"chat.completion","created":1,"model":"gpt-x","choices":[{"index":0,'
                                b'"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}],'
                                b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'))

    port = await upstream(server)
    messages = [{"role": "user", "content": "hello"}]
    for backend in ("anthropic", "openai"):
        async with gate(home, backend=backend, base_url=f"http://127.0.0.1:{port}", limits=Limits()) as egress:
            egress.secrets.set("llm", KEY)
            door = await egress.doors.open("w1", "home", now_ms=1)
            transport = httpx.AsyncHTTPTransport(uds=str(door / "egress.sock"))
            async with httpx.AsyncClient(transport=transport) as client:
                url = "http://egress/llm"
                if backend == "anthropic":
                    sdk = anthropic.AsyncAnthropic(api_key="placeholder", base_url=url, http_client=client)
                    stream = await sdk.messages.create(
                        model="claude-x", max_tokens=9, messages=messages, stream=True,
                    )
                    kinds = [event.type async for event in stream]
                    assert kinds[0] == "message_start" and "message_stop" in kinds
                else:
                    sdk = openai.AsyncOpenAI(api_key="placeholder", base_url=url, http_client=client)
                    # The first answer is a 429: the SDK's own retry goes the same way.
                    done = await sdk.chat.completions.create(model="gpt-x", messages=messages)
                    assert done.choices[0].message.content == "hi"
    assert len(heads) == 3 and all(KEY.encode() in head and b"placeholder" not in head for head in heads)
