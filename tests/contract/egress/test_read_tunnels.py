"""Tunnels whose TLS egress opens, over a real door: every request in them is judged, and goes on by verified TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.egress.in_tunnel import WAIT_S_MAX, ask, asking, authority_of, begun, opened, trusting
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import call, gate, read_request, until, until_written

from microclaw.agent.relay import Relay
from microclaw.core.sentinels import binding
from microclaw.egress import proxy
from microclaw.egress.dial import World
from microclaw.egress.http_messages import Limits
from microclaw.egress.tunnel import TunnelLimits

#: Generous: the machine may be busy.
LIMITS = Limits(head_s=20, keep_alive_s=20, stall_s=20)
TUNNEL_LIMITS = TunnelLimits(hello_s=20, bytes_max=64 << 20, total_s=60, idle_s=30)
#: With what JSON, URLs and regular expressions write differently.
REAL = 'ghp_"r&al/V+lue=99'


class Server:
    """Answers each request with what it was sent, in two pieces, and the connection stays open."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def __call__(self, reader, writer):
        while not reader.at_eof():
            head, body = await read_request(reader)
            self.seen.append(head + body)
            echo = head + body
            writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nSet-Cookie: a=b\r\nContent-Length: %d\r\n\r\n" % (
                REAL.encode(), len(echo)
            ) + echo[:60])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(echo[60:])


@asynccontextmanager
async def reading(home, upstream, authority, server, *, allow=("good.example", "other.example"), limits=LIMITS,
                  tunnel_limits=TUNNEL_LIMITS):
    """(egress, a door of group home, what was dialled): the secret `git-hub` is lent for good.example."""
    outside = Outside(
        {"good.example": [PUBLIC], "other.example": [PUBLIC]}, await upstream(server, tls=authority.server())
    )
    world = World(resolve=outside.resolve, dial=outside.dial, is_own=lambda _: False, tls=authority.client)
    async with gate(home, backend="local", allow=allow, world=world, read_tls="all", limits=limits,
                    tunnel_limits=tunnel_limits) as egress:
        egress.secrets.set("git-hub", REAL)
        await egress.bindings.set(binding("git-hub", ["good.example"], []))
        yield egress, await egress.doors.open("w1", "home", now_ms=1), outside


async def stand_in(door) -> str:
    got = await call(door, b"GET /environment HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")
    return json.loads(got.partition(b"\r\n\r\n")[2])["MC_SECRET_GIT_HUB"]


async def told(egress) -> list[tuple[str, str, str]]:
    return [(entry.action, entry.subject, entry.outcome) for entry in await egress.audit.tail(50)]


async def test_ac48_a_lent_credential_is_put_in_and_never_comes_back_also_over_two_chunks(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        value = await stand_in(door)
        got = await ask(door, asking(
            f"/user?k={value}", f"Authorization: Bearer {value}", "Cookie: c=d", method="POST", body=value.encode(),
        ))
        assert got.startswith(b"HTTP/1.1 200"), got
        line, rest = server.seen[0].split(b"\r\n", 1)
        assert line == b"POST /user?k=ghp_%22r%26al%2FV%2Blue%3D99 HTTP/1.1"
        assert f"authorization: Bearer {REAL}\r\n".encode() in rest and rest.endswith(REAL.encode())
        assert b"host: good.example\r\n" in rest and b"cookie: c=d\r\n" in rest.lower()
        assert REAL.encode() not in got and b"[REDACTED]" in got and b"ghp_%22" not in got
        assert b"set-cookie" not in got.lower(), "what a credential opened is not handed over as a cookie"
        assert outside.dialled == [(PUBLIC, 443)]
        assert (await told(egress))[-3:] == [
            ("egress.connect", "good.example:443", "allow"), ("egress.http", "good.example:443", "allow"),
            ("secret.use", "git-hub at good.example:443", "allow"),
        ]
        assert REAL not in repr(await egress.audit.tail(99)) and "user?k" not in repr(await egress.audit.tail(99))


@pytest.mark.parametrize("raw", [
    asking("/?k=hunter2hunter2", host="other.example"), asking("/", "X-A: hunter2hunter2", host="other.example"),
    asking("/", "X-A: aHVudGVyMmh1bnRlcjI=", host="other.example"),
])
async def test_ac48_a_secret_in_an_address_or_header_is_not_sent(home, upstream, authority, raw):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        egress.secrets.set("llm", "hunter2hunter2")
        got = await ask(door, raw, "other.example")
        assert got.startswith(b"HTTP/1.1 403") and b"secret" in got
        assert server.seen == [] and outside.dialled == [] and (await told(egress))[-1][2] == "deny"


async def test_ac48_a_credential_for_another_host_and_one_of_another_worker_are_refused(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        value = await stand_in(door)
        header = f"Authorization: Bearer {value}"
        got = await ask(door, asking("/", header, host="other.example"), "other.example")
        assert got.startswith(b"HTTP/1.1 403") and b"git-hub is for good.example:443 only" in got
        other = await egress.doors.open("w2", "home", now_ms=1)
        assert b"not lent to this worker" in await ask(other, asking("/", header))
        assert server.seen == [] and outside.dialled == []


async def test_a_secret_in_a_body_is_masked(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, _):
        egress.secrets.set("llm", "hunter2hunter2")
        await ask(door, asking("/", method="PUT", body=b"the key is hunter2hunter2!"))
        assert server.seen[0].endswith(b"the key is [REDACTED]****!")


@pytest.mark.parametrize(("raw", "status"), [
    (asking("/", host="other.example"), b"421"), (asking("/", host="good.example:8443"), b"421"),
    (asking("/", host="good.example.evil.example"), b"421"), (asking("/", host="127.0.0.1"), b"421"),
    (asking("https://other.example/"), b"421"), (asking("https://good.example/", host="other.example"), b"421"),
    (asking("http://good.example/"), b"400"), (asking("//other.example/", host=""), b"400"),
    (asking("good.example:443", method="CONNECT"), b"400"),
    (asking("/", "Host: other.example"), b"400"),
])
async def test_ac38_a_request_for_another_host_than_the_tunnels_is_refused(home, upstream, authority, raw, status):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        got = await ask(door, raw)
        assert got.startswith(b"HTTP/1.1 " + status), got
        assert server.seen == [] and outside.dialled == []
        assert (await told(egress))[-1] == ("egress.http", "good.example:443", "deny")


@pytest.mark.parametrize("raw", [
    asking("/a", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"),
    asking("/a", "Content-Length: 4", method="POST", body=b"abc"),
    asking("/a", "Transfer-Encoding: xchunked", method="POST"),
    asking("/a", "X: y\r\n\tz: folded", "Transfer-Encoding : chunked", method="POST"),
])
async def test_ac38_a_request_with_two_ends_is_refused(home, upstream, authority, raw):
    server = Server()
    async with reading(home, upstream, authority, server) as (_, door, _outside):
        got = await ask(door, raw)
        assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), got
        assert server.seen == []


async def test_requests_of_one_tunnel_pipelined_or_not_are_judged_one_by_one(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        reader, writer = await opened(door)
        keep = b"GET /%d HTTP/1.1\r\nHost: good.example\r\n\r\n"
        writer.write(keep % 1 + keep % 2 + keep.replace(b"good", b"other") % 3 + keep % 4)
        got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        writer.close()
        assert [seen.split()[1] for seen in server.seen] == [b"/1", b"/2"], "nothing is taken after a refusal"
        assert got.count(b"HTTP/1.1 200") == 2 and got.count(b"HTTP/1.1 421") == 1
        assert outside.resolved == ["good.example"], "one address for the whole tunnel"
        # A rule that comes in between holds at once.
        reader, writer = await opened(door)
        writer.write(keep % 5)
        assert b" 200 " in await asyncio.wait_for(reader.readline(), WAIT_S_MAX)
        await egress.rules.change("good.example", "deny", "", now_ms=1)
        writer.write(asking("/6"))
        got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        assert b"HTTP/1.1 403" in got and b"denied by the rule" in got and len(server.seen) == 3
        writer.close()


async def test_a_yes_for_once_holds_for_all_of_one_tunnel_and_for_no_other(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server, allow=()) as (egress, door, _):
        _, writer, head = await begun(door)
        writer.close()
        assert b"403" in head.split(b"\r\n")[0]
        assert await egress.approvals.answer((await egress.approvals.rows())[0].code, "once", "cli") == ""
        reader, writer = await opened(door)
        writer.write(b"GET /1 HTTP/1.1\r\nHost: good.example\r\n\r\n" + asking("/2"))
        assert (await asyncio.wait_for(reader.read(), WAIT_S_MAX)).count(b"HTTP/1.1 200") == 2
        writer.close()
        _, writer, head = await begun(door)
        writer.close()
        assert b"403" in head.split(b"\r\n")[0]


async def test_ac38_a_server_with_another_certificate_is_a_502_with_the_reason(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server, allow=["wrong.example"]) as (_, door, outside):
        outside.names["wrong.example"] = [PUBLIC]
        got = await ask(door, asking("/", host="wrong.example"), "wrong.example")
        assert got.startswith(b"HTTP/1.1 502") and b"its certificate is not accepted" in got
        assert server.seen == []


async def test_ac38_another_server_name_than_the_connects_is_refused(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (egress, door, outside):
        with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
            await opened(door, name="other.example")
        await until_written(egress, lambda entry: (entry.action, entry.outcome) == ("egress.connect", "deny"))
        assert outside.dialled == []


@pytest.mark.parametrize("first", [
    b"EHLO good.example\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x01\x02garbage", b"SSH-2.0-x\r\n\r\n",
])
async def test_what_is_not_http_is_refused_and_the_audit_says_what_to_do(home, upstream, authority, first):
    async with reading(home, upstream, authority, Server()) as (egress, door, outside):
        got = await ask(door, first)
        assert got.startswith(b"HTTP/1.1 400") and b"microclaw egress allow good.example --group home --opaque" in got
        entry = (await egress.audit.tail(1))[0]
        assert entry.outcome == "deny" and "`microclaw egress allow good.example --group home --opaque`" in entry.detail
        assert outside.dialled == []


async def test_a_program_that_waits_for_the_server_to_speak_is_told_of_in_the_audit(home, upstream, authority):
    limits = replace(LIMITS, keep_alive_s=0.5)
    async with reading(home, upstream, authority, Server(), limits=limits) as (egress, door, _):
        assert await ask(door, b"") == b""
        await until_written(egress, lambda entry: "no request came for 0.5 s" in entry.detail)
        assert "--opaque" in (await egress.audit.tail(1))[0].detail


async def test_a_program_with_certificates_of_its_own_is_told_of_in_the_audit(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (egress, door, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await opened(door, context=authority.client())
        await until_written(egress, lambda entry: (entry.action, entry.outcome) == ("egress.connect", "failed"))
        detail = (await egress.audit.tail(1))[0].detail
        assert "did not take egress's certificate" in detail and "allow good.example --group home --opaque" in detail


async def test_tls_is_at_least_1_2_and_offers_http_1_1_alone(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (_, door, _outside):
        for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
            context = await trusting(door)
            context.set_alpn_protocols(offered)
            _, writer = await opened(door, context=context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
            writer.close()
        context = await trusting(door)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await opened(door, context=context)
        writer.close()
        context = await trusting(door)
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await opened(door, context=context)


async def test_ac08_slow_loris_in_the_handshake_and_in_the_headers_ends(home, upstream, authority):
    limits, tunnel_limits = replace(LIMITS, head_s=1), replace(TUNNEL_LIMITS, hello_s=2)
    async with reading(
        home, upstream, authority, Server(), limits=limits, tunnel_limits=tunnel_limits,
    ) as (egress, door, outside):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = (await trusting(door)).wrap_bio(incoming, outgoing, server_hostname="good.example")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        reader, writer, _ = await begun(door)
        writer.write(outgoing.read())  # a hello, and never more
        await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        await until_written(egress, lambda entry: "took longer than 2 s" in entry.detail)
        writer.close()
        reader, writer = await opened(door)
        writer.write(b"GET / HTTP/1.1\r\nHost: good.example\r\nX: ")
        assert (await asyncio.wait_for(reader.read(), WAIT_S_MAX)).startswith(b"HTTP/1.1 408")
        writer.close()
        got = await ask(door, asking("/", "X: " + "a" * 70_000))
        assert got.startswith(b"HTTP/1.1 431") and outside.dialled == []


async def test_bodies_stream_both_ways_while_they_come(home, upstream, authority):
    """Events, as they come; and a long upload, chunked, of which nothing is kept."""
    more = asyncio.Event()

    async def server(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await more.wait()
            writer.write(b"data: 2\n\n")
            return
        size = 0
        while (count := int(await reader.readline(), 16)):
            size += len(await reader.readexactly(count))
            await reader.readline()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n%08d" % size)

    async with reading(home, upstream, authority, server) as (_, door, _outside):
        reader, writer = await opened(door)
        writer.write(asking("/events"))
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), WAIT_S_MAX)
        more.set()
        assert b"data: 2\n\n" in await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        writer.close()
        reader, writer = await opened(door)
        writer.write(asking("/up", "Transfer-Encoding: chunked", "Expect: 100-continue", method="POST"))
        assert await asyncio.wait_for(reader.readline(), WAIT_S_MAX) == b"HTTP/1.1 100 \r\n"
        for _ in range(40):
            writer.write(b"40000\r\n" + b"x" * 0x40000 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
        assert b"HTTP/1.1 201" in got and got.endswith(b"10485760")
        writer.close()


@pytest.mark.parametrize(("method", "answer"), [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"), ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
    ("DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
])
async def test_answers_without_a_body_and_interim_ones_leave_the_tunnel_in_step(
    home, upstream, authority, method, answer,
):
    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with reading(home, upstream, authority, server) as (_, door, _outside):
        keep = f"{method} / HTTP/1.1\r\nHost: good.example\r\n\r\n".encode()
        got = await ask(door, keep + asking("/", method=method))
        final = answer.rpartition(b"HTTP/1.1 ")[2][:3]
        assert got.count(b"HTTP/1.1 " + final) == 2, got


async def test_a_server_that_says_no_to_a_long_body_is_heard(home, upstream, authority):
    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()

    async with reading(home, upstream, authority, server) as (_, door, _outside):
        reader, writer = await opened(door)
        writer.write(asking("/", "Content-Length: 8388608", method="POST"))
        with contextlib.suppress(OSError):
            for _ in range(32):
                writer.write(os.urandom(1 << 18))
                await writer.drain()
        assert (await asyncio.wait_for(reader.read(), WAIT_S_MAX)).startswith((b"HTTP/1.1 401", b"HTTP/1.1 502"))
        writer.close()


async def test_an_answer_that_breaks_off_does_not_seem_whole(home, upstream, authority):
    """Where only the connection's end says that an answer is whole, too: then TLS ends without its goodbye."""
    async def server(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        writer.write(b"0\r\n\r\n" if b"/whole" in head else b"")
        await writer.drain()

    def program(path: str, context: ssl.SSLContext) -> bytes:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(WAIT_S_MAX)
            raw.connect(str(door / "egress.sock"))
            raw.sendall(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
            assert raw.recv(4096).endswith(b"\r\n\r\n")
            inside = context.wrap_socket(raw, server_hostname="good.example", suppress_ragged_eofs=False)
            inside.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            got = b""
            while piece := inside.recv(4096):
                got += piece
            return got

    async with reading(home, upstream, authority, server) as (_, door, _outside):
        context = await trusting(door)
        assert (await asyncio.to_thread(program, "/whole", context)).endswith(b"\r\n\r\nhalf")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            await asyncio.to_thread(program, "/cut", context)


@pytest.mark.parametrize(("limits", "says"), [
    ({"bytes_max": 200_000}, "cut after 200000 bytes"),
    ({"total_s": 2}, "cut after 2 s"),
])
async def test_a_tunnel_is_cut_at_its_size_and_when_its_time_is_over(home, upstream, authority, limits, says):
    async def endless(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0.02)

    tunnel_limits = replace(TUNNEL_LIMITS, **limits)
    async with reading(home, upstream, authority, endless, tunnel_limits=tunnel_limits) as (egress, door, _):
        reader, writer = await opened(door)
        writer.write(asking("/"))
        with contextlib.suppress(OSError):
            while await asyncio.wait_for(reader.read(65536), WAIT_S_MAX):
                pass
        await until_written(egress, lambda entry: (entry.action, entry.outcome) == ("egress.cut", "ok"))
        assert says in (await egress.audit.tail(1))[0].detail
        await until(lambda: egress.proxy.under_way == 0)
        writer.close()


async def test_requests_in_one_tunnel_keep_within_the_rate_and_wait_for_it(home, upstream, authority, monkeypatch):
    monkeypatch.setattr(proxy, "BURST_MAX", 5.0)
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, _):
        begin = time.monotonic()
        got = await ask(door, b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n" * 19 + asking("/"))
        assert got.count(b"HTTP/1.1 200") == len(server.seen) == 20
        assert time.monotonic() - begin > 1.4, "five at once, then ten a second"
        assert ("egress.flood", "the door", "deny") not in (await told(egress))


async def test_ac08_a_tunnel_and_the_request_in_it_take_one_place(home, upstream, authority):
    """Or one worker's connections could take the places of all."""
    came, go = asyncio.Event(), asyncio.Event()

    async def server(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await go.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with reading(home, upstream, authority, server) as (egress, door, _):
        asked = asyncio.create_task(ask(door, asking("/")))
        await asyncio.wait_for(came.wait(), WAIT_S_MAX)
        assert egress.proxy.under_way == 1
        go.set()
        assert (await asked).startswith(b"HTTP/1.1 204")
        await until(lambda: egress.proxy.under_way == 0)


async def test_an_opaque_rule_and_the_setting_leave_tunnels_unopened(home, upstream, authority):
    server = Server()
    for read_tls, host, opaque in (
        ("all", "other.example", True), ("all", "good.example", False), ("lent", "other.example", True),
        ("lent", "good.example", False), ("none", "good.example", True),
    ):
        outside = Outside({host: [PUBLIC]}, await upstream(server, tls=authority.server()))
        world = World(resolve=outside.resolve, dial=outside.dial, is_own=lambda _: False, tls=authority.client)
        allow = ["good.example", "other.example" + (" opaque" if read_tls == "all" else "")]
        async with gate(home, backend="local", allow=allow, world=world, read_tls=read_tls) as egress:
            egress.secrets.set("git-hub", REAL)
            await egress.bindings.set(binding("git-hub", ["good.example"], []))
            door = await egress.doors.open("w1", "home", now_ms=1)
            reader, writer, head = await begun(door, host)
            assert (b"x-egress-authority" in head) != opaque, (read_tls, host)
            context = authority.client() if opaque else await trusting(door)
            await writer.start_tls(context, server_hostname=host)
            writer.write(asking("/", host=host))
            assert b"HTTP/1.1 200" in await asyncio.wait_for(reader.readline(), WAIT_S_MAX)
            writer.close()
            if read_tls == "none":
                got = await call(door, b"GET /authority.pem HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
                assert got.startswith(b"HTTP/1.1 404")


async def test_each_worker_has_an_authority_of_its_own_that_ends_with_it(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (egress, door, _):
        other = await egress.doors.open("w2", "home", now_ms=1)
        mine, mark = await authority_of(door)
        theirs, other_mark = await authority_of(other)
        assert mine != theirs and mark != other_mark and (mine, mark) == await authority_of(door)
        with pytest.raises(ssl.SSLCertVerificationError):
            await opened(other, context=await trusting(door))
        assert "PRIVATE" not in mine
        await egress.doors.close(("w1",))
        assert (await authority_of(await egress.doors.open("w1", "home", now_ms=1)))[1] != mark


async def test_what_was_refused_in_a_tunnel_is_told_to_its_worker_once(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (egress, door, _):
        other = await egress.doors.open("w2", "home", now_ms=1)
        await ask(door, asking("/", host="other.example"))
        await ask(door, asking("/"))
        await ask(door, b"EHLO x\r\n\r\n")
        said = await refusals(door)
        assert [status for status, _ in said] == [421, 400]
        assert "other.example" in said[0][1] and "--opaque" in said[1][1]
        assert await refusals(door) == [] == await refusals(other)


async def refusals(door) -> list[list]:
    got = await call(door, b"GET /refusals HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")
    return json.loads(got.partition(b"\r\n\r\n")[2])


async def test_after_a_restart_there_is_a_new_authority_and_the_connects_answer_names_it(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (_, door, _outside):
        _, mark = await authority_of(door)
        _, writer, head = await begun(door)
        writer.close()
        assert f"x-egress-authority: {mark}\r\n".encode() in head
    async with reading(home, upstream, authority, Server()) as (_, door, _outside):
        _, new = await authority_of(door)
        _, writer, head = await begun(door)
        writer.close()
        assert new != mark and f"x-egress-authority: {new}\r\n".encode() in head
        assert (await ask(door, asking("/"))).startswith(b"HTTP/1.1 200")


async def test_a_living_worker_goes_on_after_kill_9_of_egress(home, upstream, authority):
    """Programs as a shell starts them, by the relay; nothing but the door is the same afterwards."""
    port = str(await upstream(Server(), tls=authority.server()))
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).read().decode())"
    env = {**os.environ, "MICROCLAW_HOME": str(home.state)}

    async def started() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.contract.egress.gate_process", port, "1", "good.example", str(authority.ca),
            "all", env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )

    async def program() -> str:
        ran = await asyncio.create_subprocess_exec(
            sys.executable, "-c", fetch, "https://good.example/", env=await relay.environment({}),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )
        return (await asyncio.wait_for(ran.communicate(), WAIT_S_MAX))[0].decode()

    egress = await started()
    assert egress.stdout
    door = Path((await asyncio.wait_for(egress.stdout.readline(), WAIT_S_MAX)).decode().strip())
    relay = Relay(door / "egress.sock")
    await relay.start(0)
    try:
        assert "GET / HTTP/1.1" in await program()
        egress.kill()
        await egress.wait()
        assert "502" in await program()
        egress = await started()
        assert egress.stdout
        await asyncio.wait_for(egress.stdout.readline(), WAIT_S_MAX)
        assert "GET / HTTP/1.1" in await program(), "the first one that comes after it"
    finally:
        await relay.close()
        egress.kill()
        await egress.wait()


async def test_no_private_key_is_on_the_disk(home, upstream, authority):
    async with reading(home, upstream, authority, Server()) as (_, door, _outside):
        assert (await ask(door, asking("/"))).startswith(b"HTTP/1.1 200")
        for path in home.state.rglob("*"):
            assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes(), path


async def test_a_hundred_tunnels_at_the_same_time(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, _):
        context = await trusting(door)

        async def one(number: int) -> bytes:
            reader, writer = await opened(door, context=context)
            writer.write(asking(f"/{number}"))
            got = await asyncio.wait_for(reader.read(), WAIT_S_MAX)
            writer.close()
            return got

        got = await asyncio.gather(*(one(number) for number in range(100)))
        assert all(f"GET /{number} HTTP/1.1".encode() in answer for number, answer in enumerate(got))
        await until(lambda: egress.proxy.under_way == 0 and egress.connections.open == 0)
        assert (await egress.audit.verify())[1] == []
