"""The forward proxy over a real door: what may pass, to which address, and what is refused with which reason."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import time

import pytest
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import (
    KEY,
    QUICK_TUNNEL,
    call,
    connect,
    free_port,
    gate,
    post,
    until,
    until_written,
)

from microclaw.egress.tunnel import TunnelLimits


def connecting(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


async def tunnel(door, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """(streams, the answer's head)."""
    reader, writer = await connect(door)
    writer.write(connecting(target))
    return reader, writer, await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def get_through(door, host: str, context: ssl.SSLContext, *, port: int = 443, name: str = "") -> bytes:
    """A line through a tunnel with TLS inside, and its echo."""
    reader, writer, head = await tunnel(door, f"{host}:{port}")
    assert head.startswith(b"HTTP/1.1 200"), head
    await writer.start_tls(context, server_hostname=name or host)
    writer.write(b"hello\n")
    line = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return line


async def last(egress) -> tuple[str, str, str]:
    entry = (await egress.audit.tail(1))[-1]
    return entry.action, entry.outcome, entry.detail


async def test_ac38_an_allowed_host_is_reached_by_tls_and_is_audited(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        assert outside.dialled == [(PUBLIC, 443)]
        entry = (await egress.audit.tail(1))[-1]
        assert (entry.actor, entry.subject, entry.outcome) == ("worker:w1@home", "good.example:443", "allow")


@pytest.mark.parametrize("target", [
    "evil.example:443", "good.example:8443", "sub.good.example:443", "xgood.example:443", "deep.example:443",
    "good.example.evil.example:443", "localhost:443",
])
async def test_ac38_what_is_not_listed_is_refused_with_the_reason(home, target):
    outside = Outside({"good.example": [PUBLIC]})
    async with gate(home, allow=["good.example", "*.deep.example"], world=outside.world()) as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), connecting(target))
        assert got.startswith(b"HTTP/1.1 403") and b"is not on the allow-list of group home" in got
        assert b"microclaw egress allow " in got
        assert outside.resolved == [] and outside.dialled == []
        assert (await last(egress))[:2] == ("egress.connect", "deny")


@pytest.mark.parametrize("target", [
    "127.0.0.1:443", "[::1]:443", "2130706433:443", "0x7f000001:443", "127.1:443", "good.example:0",
    "good.example:70000", "good.example:44 3", "g\u00fcte.example:443", "good..example:443", ":443",
    "a" * 300 + ".example:443",
])
async def test_ac38_targets_that_are_no_names_are_refused(home, target):
    outside = Outside({"good.example": [PUBLIC]})
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), connecting(target))
        assert got.startswith(b"HTTP/1.1 400")
        assert outside.resolved == []


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1", "fe80::1",
    "::ffff:93.184.215.14", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "2001:0:7f00:1::", "168.63.129.16",
    "fe80::1%eth0",
])
async def test_ac38_a_listed_name_that_leads_into_a_private_network_is_refused(home, address):
    outside = Outside({"good.example": [PUBLIC, address]})
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), connecting("good.example:443"))
        assert got.startswith(b"HTTP/1.1 403") and b"private network" in got
        assert outside.dialled == []
        assert (await last(egress))[1] == "deny"


async def test_ac38_this_machines_own_public_address_is_refused(home):
    outside = Outside({"good.example": [PUBLIC]})
    async with gate(home, allow=["good.example"], world=outside.world(lambda a: a == PUBLIC)) as egress:
        got = await call(await egress.doors.open("w1", "home", now_ms=1), connecting("good.example:443"))
        assert got.startswith(b"HTTP/1.1 403") and b"this machine itself" in got


async def test_ac38_a_dns_answer_that_changes_after_the_check_changes_nothing(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    resolve = outside.resolve

    async def once(host: str, port: int) -> list[str]:
        found = await resolve(host, port)
        outside.names["good.example"] = ["127.0.0.1"]
        return found

    outside.resolve = once
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        assert outside.resolved == ["good.example"] and outside.dialled == [(PUBLIC, 443)]
        # The next connection sees the new answer, and is refused.
        got = await call(door, connecting("good.example:443"))
        assert got.startswith(b"HTTP/1.1 403") and outside.dialled == [(PUBLIC, 443)]


async def test_ac38_a_redirect_to_the_metadata_service_ends_at_the_door(home, upstream):
    async def redirecting(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n")

    outside = Outside({"good.example": [PUBLIC]}, await upstream(redirecting))
    async with gate(home, allow=["good.example:80"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        got = await call(door, b"GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 302")
        got = await call(door, b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400") and b"by name only" in got
        assert len(outside.dialled) == 1


async def test_a_server_name_that_is_not_the_connects_host_is_refused(home, upstream, authority):
    reached: list[bytes] = []

    async def server(reader, writer):
        reached.append(await reader.read(100))

    outside = Outside({"good.example": [PUBLIC]}, await upstream(server))
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
            await get_through(door, "good.example", authority.client(), name="other.example")
        await until_written(egress, lambda entry: entry.outcome == "deny")
        assert "'other.example' is not the host 'good.example'" in (await last(egress))[2]
        await until(lambda: bool(reached))
        assert reached == [b""], "not one byte reaches the server"


@pytest.mark.parametrize("first", [
    b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x00",
])
async def test_what_is_not_tls_does_not_pass_a_tunnel(home, upstream, first):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo))
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        reader, writer, head = await tunnel(await egress.doors.open("w1", "home", now_ms=1), "good.example:443")
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(first)
        assert await asyncio.wait_for(reader.read(), 5) == bytes((21, 3, 3, 0, 2, 2, 49))
        assert (await last(egress))[1] == "deny"
        writer.close()


async def test_a_tunnel_without_a_hello_ends_soon(home, upstream):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo))
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        reader, writer, _ = await tunnel(await egress.doors.open("w1", "home", now_ms=1), "good.example:443")
        begun = time.monotonic()
        writer.write(b"\x16\x03\x01")
        await asyncio.wait_for(reader.read(), 5)
        assert time.monotonic() - begun < 3 and "no ClientHello within" in (await last(egress))[2]
        writer.close()


async def test_plain_http_needs_port_80_to_be_named_and_hides_nothing_of_the_answer(home, upstream):
    seen: list[bytes] = []

    async def server(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        body = b"key " + KEY.encode() + b"!"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:8])
        await writer.drain()
        writer.write(body[8:])

    outside = Outside({"good.example": [PUBLIC], "only.example": [PUBLIC]}, await upstream(server))
    allow = ["good.example:80", "good.example:8080", "only.example"]
    async with gate(home, allow=allow, world=outside.world()) as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        request = (
            "GET http://{}/a?b=c HTTP/1.1\r\nHost: elsewhere\r\nProxy-Authorization: x\r\nConnection: close\r\n\r\n"
        )
        got = await call(door, request.format("good.example").encode())
        assert got.startswith(b"HTTP/1.1 200") and KEY.encode() not in got and b"[REDACTED]" in got
        assert seen[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"host: good.example" in seen[0] and b"elsewhere" not in seen[0] and b"proxy" not in seen[0]
        for host in ("only.example", "only.example:443", "good.example:8080", "user@good.example"):
            got = await call(door, request.format(host).encode())
            assert got.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), host
        got = await call(door, b"GET ftp://good.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400")
        assert len(seen) == 1


async def test_ac48_a_secret_in_an_address_is_not_sent(home, upstream):
    outside = Outside({"good.example": [PUBLIC]})
    async with gate(home, allow=["good.example:80", "*.good.example"], world=outside.world()) as egress:
        egress.secrets.set("llm", "hunter2hunter2")
        door = await egress.doors.open("w1", "home", now_ms=1)
        for raw in (
            b"GET http://good.example/?k=hunter2hunter2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            connecting("hunter2hunter2.good.example:443"),
        ):
            got = await call(door, raw)
            assert got.startswith(b"HTTP/1.1 403") and b"secret" in got and b"hunter2" not in got
        assert outside.resolved == [] and "hunter2" not in repr(await egress.audit.tail(9))


async def test_a_host_that_is_down_or_unknown_is_said(home):
    outside = Outside({"good.example": [PUBLIC]}, free_port())
    async with gate(home, allow=["good.example", "gone.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert (await call(door, connecting("good.example:443"))).startswith(b"HTTP/1.1 502")
        got = await call(door, connecting("gone.example:443"))
        assert got.startswith(b"HTTP/1.1 403") and b"could not be resolved" in got


async def test_allow_and_deny_take_effect_at_once_per_group_and_survive_a_restart(home, upstream, authority):
    port = await upstream(echo, tls=authority.server())
    outside = Outside({"good.example": [PUBLIC], "other.example": [PUBLIC]}, port)
    async with gate(home, allow=["other.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        elsewhere = await egress.doors.open("w2", "work", now_ms=1)
        assert (await call(door, connecting("good.example:443"))).startswith(b"HTTP/1.1 403")
        await egress.rules.change("good.example", "allow", "home", now_ms=1)
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        assert (await call(elsewhere, connecting("good.example:443"))).startswith(b"HTTP/1.1 403")
        await egress.rules.change("other.example", "deny", "", now_ms=1)
        assert b"denied by the rule" in await call(door, connecting("other.example:443"))
    async with gate(home, allow=["other.example"], world=outside.world()) as egress:
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        assert (await call(door, connecting("other.example:443"))).startswith(b"HTTP/1.1 403")
        await egress.rules.change("other.example", "forget", "", now_ms=1)
        assert await get_through(door, "other.example", authority.client()) == b"hello\n"


async def test_200_tunnels_at_the_same_time(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    # The limits of service, not the tests' quick ones: two hundred handshakes take their time on a busy machine.
    async with gate(
        home, allow=["good.example"], world=outside.world(), tunnel_limits=TunnelLimits()
    ) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        context = authority.client()
        lines = await asyncio.gather(*(get_through(door, "good.example", context) for _ in range(200)))
        assert lines == [b"hello\n"] * 200
        await until(lambda: egress.proxy.under_way == 0 and egress.connections.open == 0)
        assert [entry.outcome for entry in await egress.audit.tail(300)].count("allow") == 200
        assert (await egress.audit.verify())[1] == []


async def test_a_worker_that_connects_without_end_is_slowed_down(home):
    outside = Outside({})
    async with gate(home, world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        other = await egress.doors.open("w2", "home", now_ms=1)
        got = await asyncio.gather(*(call(door, connecting("evil.example:443")) for _ in range(350)))
        assert any(b"too many connections" in answer for answer in got)
        assert b"too many connections" not in await call(other, connecting("evil.example:443"))


async def test_a_tunnel_is_cut_at_its_size(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    limits = QUICK_TUNNEL.__class__(hello_s=1, bytes_max=100_000, total_s=20, idle_s=5)
    async with gate(home, allow=["good.example"], world=outside.world(), tunnel_limits=limits) as egress:
        reader, writer, _ = await tunnel(await egress.doors.open("w1", "home", now_ms=1), "good.example:443")
        await writer.start_tls(authority.client(), server_hostname="good.example")
        writer.write(b"x" * 200_000)
        got = 0
        try:
            while piece := await asyncio.wait_for(reader.read(65536), 5):
                got += len(piece)
        except (OSError, ssl.SSLError):
            pass
        assert got < 200_000
        await until_written(egress, lambda entry: entry.action == "egress.cut")
        writer.close()


async def test_an_idle_tunnel_ends(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    limits = QUICK_TUNNEL.__class__(hello_s=1, bytes_max=1 << 20, total_s=20, idle_s=0.3)
    async with gate(home, allow=["good.example"], world=outside.world(), tunnel_limits=limits) as egress:
        reader, writer, _ = await tunnel(await egress.doors.open("w1", "home", now_ms=1), "good.example:443")
        await writer.start_tls(authority.client(), server_hostname="good.example")
        with contextlib.suppress(OSError, ssl.SSLError):
            await asyncio.wait_for(reader.read(), 5)
        await until_written(egress, lambda entry: "nothing moved" in entry.detail)
        writer.close()


async def test_slow_loris_and_endless_headers_end(home):
    async with gate(home) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        reader, writer = await connect(door)
        begun = time.monotonic()
        got = b""

        async def drip() -> None:
            for byte in connecting("good.example:443")[:-4] + b"\r\nX-A: " + b"a" * 1000:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        got = await asyncio.wait_for(reader.read(), 5)
        dripping.cancel()
        assert got.startswith(b"HTTP/1.1 408") and time.monotonic() - begun < 3
        writer.close()
        got = await call(door, b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000)
        assert got.startswith(b"HTTP/1.1 431")
        assert (await call(door, b"\x00\x01garbage\r\n\r\n")).startswith(b"HTTP/1.1 400")
        got = await call(door, post("/llm/v1/x", b"", headers="Transfer-Encoding: chunked\r\n"))
        assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 403"))


async def test_a_pipelined_hello_right_behind_the_connect_is_read(home, upstream, authority):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, allow=["good.example"], world=outside.world()) as egress:
        reader, writer = await connect(await egress.doors.open("w1", "home", now_ms=1))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.client().wrap_bio(incoming, outgoing, server_hostname="good.example")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        writer.write(connecting("good.example:443") + outgoing.read())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        kind, _major, _minor, size = struct.unpack("!BBBH", await asyncio.wait_for(reader.readexactly(5), 5))
        assert kind == 22 and size > 0, "the server's handshake answers"
        writer.close()
