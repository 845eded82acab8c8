"""Credentials lent to agents: a sentinel inside, the real value at its own hosts and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import pytest
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import call, gate, read_request

from microclaw.core.errors import UsageError
from microclaw.core.sentinels import binding
from microclaw.egress.dial import World

#: With what JSON, URLs and regular expressions write differently.
REAL = 'ghp_"r&al/V+lue=99'


@asynccontextmanager
async def lending(home, upstream, authority, server, *, groups=(), allow=("good.example", "other.example")):
    """(egress, a door of group home, its sentinel) with the secret `git-hub` for good.example, and what was dialled."""
    outside = Outside(
        {"good.example": [PUBLIC], "other.example": [PUBLIC]}, await upstream(server, tls=authority.server())
    )
    world = World(resolve=outside.resolve, dial=outside.dial, is_own=lambda _: False, tls=authority.client)
    async with gate(home, backend="local", allow=allow, world=world) as egress:
        egress.secrets.set("git-hub", REAL)
        await egress.bindings.set(binding("git-hub", ["good.example"], groups))
        door = await egress.doors.open("w1", "home", now_ms=1)
        yield egress, door, (await environment(door)).get("MC_SECRET_GIT_HUB", ""), outside


async def environment(door) -> dict[str, str]:
    got = await call(door, b"GET /environment HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")
    return json.loads(got.partition(b"\r\n\r\n")[2])


def asking(target: str, *headers: str, body: str = "", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "", body]).encode()


class Server:
    """Answers with what it was sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader, writer):
        head, body = await read_request(reader)
        self.heads.append(head)
        self.bodies.append(body)
        echo = head + body
        writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nX-Egress-Reason: forged\r\nContent-Length: %d\r\n\r\n" % (
            REAL.encode(), len(echo)
        ) + echo[:40])
        await writer.drain()
        writer.write(echo[40:])


@pytest.mark.parametrize("target", ["/to/good.example/user?a=b", "http://good.example/user?a=b"])
async def test_ac48_the_real_value_reaches_its_host_by_tls_and_never_comes_back(home, upstream, authority, target):
    server = Server()
    async with lending(home, upstream, authority, server) as (egress, door, stand_in, outside):
        assert stand_in.startswith("mc-secret-git-hub-") and REAL not in stand_in
        got = await call(door, asking(target, f"Authorization: Bearer {stand_in}", "Accept-Encoding: gzip"))
        assert got.startswith(b"HTTP/1.1 200"), got
        assert server.heads[0].startswith(b"GET /user?a=b HTTP/1.1\r\n")
        assert f"\r\nauthorization: Bearer {REAL}\r\n".encode() in server.heads[0]
        assert b"host: good.example\r\n" in server.heads[0] and b"gzip" not in server.heads[0]
        assert outside.dialled == [(PUBLIC, 443)]
        assert REAL.encode() not in got and b"[REDACTED]" in got and b"forged" not in got
        entries = [(entry.action, entry.subject, entry.outcome) for entry in await egress.audit.tail(2)]
        assert entries == [
            ("egress.http", "good.example:443", "allow"), ("secret.use", "git-hub at good.example:443", "allow"),
        ]
        assert REAL not in repr(await egress.audit.tail(99))


async def test_it_is_put_in_as_each_place_writes_it(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server) as (_egress, door, stand_in, _):
        basic = base64.b64encode(f"user:{stand_in}".encode()).decode()
        path = f"/to/good.example/{stand_in}/x?key={stand_in}"
        document = json.dumps({"k": stand_in})
        credentials = f"Authorization: Basic {basic}"
        for request in (
            asking(path, credentials, "Content-Type: application/json", body=document, method="POST"),
            asking("/to/good.example/", "Content-Type: application/x-www-form-urlencoded", body=f"k={stand_in}&l=1",
                   method="POST"),
            asking("/to/good.example/", "Expect: 100-continue", body=f"k: {stand_in}", method="PUT"),
        ):
            assert b"HTTP/1.1 200" in await call(door, request)
        line, *headers = server.heads[0].decode().split("\r\n")
        assert line == "POST /ghp_%22r%26al%2FV%2Blue%3D99/x?key=ghp_%22r%26al%2FV%2Blue%3D99 HTTP/1.1"
        sent = next(header for header in headers if header.lower().startswith("authorization: basic "))
        assert base64.b64decode(sent.split()[2]).decode() == f"user:{REAL}"
        assert json.loads(server.bodies[0]) == {"k": REAL}
        assert server.bodies[1:] == [b"k=ghp_%22r%26al%2FV%2Blue%3D99&l=1", f"k: {REAL}".encode()]


@pytest.mark.parametrize("request_to", [
    "/to/other.example/", "http://other.example/", "/to/good.example:8443/", "http://good.example:8443/",
])
@pytest.mark.parametrize("where", ["header", "basic", "query", "body"])
async def test_ac48_a_sentinel_for_another_host_is_refused_and_audited(home, upstream, authority, request_to, where):
    server = Server()
    allow = ("good.example", "good.example:8443", "other.example", "other.example:80")
    async with lending(home, upstream, authority, server, allow=allow) as (egress, door, stand_in, outside):
        raw = {
            "header": asking(request_to, f"X-Key: {stand_in}"),
            "basic": asking(request_to, "Authorization: Basic " + base64.b64encode(f"u:{stand_in}".encode()).decode()),
            "query": asking(f"{request_to}?k={stand_in}"),
            "body": asking(request_to, body=f"k={stand_in}", method="POST"),
        }[where]
        got = await call(door, raw)
        assert got.startswith(b"HTTP/1.1 403"), got
        # Unencrypted to another port than 80 is refused before its body is looked at.
        assert b"git-hub is for good.example:443 only" in got or (where == "body" and b"unencrypted" in got)
        assert server.heads == [] and outside.dialled == []
        entry = (await egress.audit.tail(1))[0]
        assert (entry.action, entry.outcome) == ("egress.http", "deny")
        assert "credential" in entry.detail or "unencrypted" in entry.detail


async def test_a_sentinel_is_one_workers_and_lent_groups_alone_have_one(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server, groups=["home"]) as (egress, door, stand_in, _):
        other = await egress.doors.open("w2", "home", now_ms=1)
        assert (await environment(other))["MC_SECRET_GIT_HUB"] not in ("", stand_in)
        stranger = await egress.doors.open("w3", "work", now_ms=1)
        assert await environment(stranger) == {}
        request = asking("/to/good.example/", f"Authorization: Bearer {stand_in}")
        for visitor in (other, stranger):
            got = await call(visitor, request)
            assert got.startswith(b"HTTP/1.1 403") and b"not lent to this worker" in got
        assert server.heads == []
        assert (await call(door, request)).startswith(b"HTTP/1.1 200")


async def test_a_binding_opens_no_host_by_itself(home, upstream, authority):
    async with lending(home, upstream, authority, Server(), allow=()) as (_egress, door, stand_in, outside):
        got = await call(door, asking("/to/good.example/", f"Authorization: Bearer {stand_in}"))
        assert got.startswith(b"HTTP/1.1 403") and b"microclaw egress allow good.example" in got
        assert outside.resolved == []


async def test_rotation_rebinding_and_removal_hold_from_the_next_request_on(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server) as (egress, door, stand_in, _):
        request = asking("/to/good.example/", f"Authorization: Bearer {stand_in}")
        egress.secrets.set("git-hub", "another-value-1", must_exist=True)
        assert (await environment(door))["MC_SECRET_GIT_HUB"] == stand_in, "the sentinel outlives the value"
        assert (await call(door, request)).startswith(b"HTTP/1.1 200") and b"another-value-1" in server.heads[0]
        await egress.bindings.set(binding("git-hub", ["other.example"], []))
        assert b"is for other.example:443 only" in await call(door, request)
        egress.secrets.remove("git-hub")
        assert await environment(door) == {} and b"not lent" in await call(door, request)


async def test_sentinels_and_bindings_survive_a_restart(home, upstream, authority):
    async with lending(home, upstream, authority, Server()) as (_egress, _door, stand_in, _):
        pass
    async with gate(home, backend="local") as egress:
        assert await environment(await egress.doors.open("w1", "home", now_ms=1)) == {"MC_SECRET_GIT_HUB": stand_in}
        assert egress.bindings.of("git-hub") == binding("git-hub", ["good.example:443"], [])


async def test_a_redirect_within_the_host_leads_back_through_the_door(home, upstream, authority):
    places = iter(("/next?x=1", "https://good.example/there", "https://other.example/", "http://169.254.169.254/"))

    async def redirecting(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {next(places)}\r\nContent-Length: 0\r\n\r\n".encode())

    async with lending(home, upstream, authority, redirecting) as (_egress, door, stand_in, _):
        led = []
        for _ in range(4):
            got = await call(door, asking("/to/good.example/", f"Authorization: Bearer {stand_in}"))
            led.append(next(line for line in got.decode().split("\r\n") if line.lower().startswith("location"))[10:])
        assert led == [
            "/to/good.example/next?x=1", "/to/good.example/there", "https://other.example/", "http://169.254.169.254/",
        ]


async def test_a_server_with_another_certificate_gets_nothing(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server, allow=["wrong.example"]) as (egress, door, stand_in, outside):
        outside.names["wrong.example"] = [PUBLIC]
        await egress.bindings.set(binding("git-hub", ["wrong.example"], []))
        got = await call(door, asking("/to/wrong.example/", f"Authorization: Bearer {stand_in}"))
        assert got.startswith(b"HTTP/1.1 502") and b"certificate is not accepted" in got
        assert server.heads == []


async def test_a_compressed_answer_to_a_credential_is_not_passed(home, upstream, authority):
    async def compressing(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")

    async with lending(home, upstream, authority, compressing) as (_egress, door, stand_in, _):
        got = await call(door, asking("/to/good.example/", f"Authorization: Bearer {stand_in}"))
        assert got.startswith(b"HTTP/1.1 502") and b"compressed" in got


async def test_without_a_credential_the_reverse_way_is_an_https_request_like_any_other(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server) as (_egress, door, _, _outside):
        assert (await call(door, asking("/to/good.example"))).startswith(b"HTTP/1.1 200")
        assert server.heads[0].startswith(b"GET / HTTP/1.1\r\n")
        for target in ("/to/127.0.0.1/", "/to//x", "/to/good.example:0/", "/to/user@good.example/"):
            assert (await call(door, asking(target))).startswith(b"HTTP/1.1 400"), target


async def test_two_secrets_with_one_variable_and_bindings_that_leak_are_refused(home):
    async with gate(home, backend="local") as egress:
        await egress.bindings.set(binding("git-hub", ["good.example"], []))
        with pytest.raises(UsageError, match="both be MC_SECRET_GIT_HUB"):
            egress.bindings.check(binding("git_hub", ["good.example"], []))
        egress.bindings.check(binding("git_hub", [], []))
    for host, why in (("*.good.example", "by name"), ("good.example:80", "unencrypted"), ("10.0.0.1", "by name only")):
        with pytest.raises(UsageError, match=why):
            binding("x", [host], [])


async def test_many_requests_with_credentials_at_the_same_time_do_not_mix(home, upstream, authority):
    server = Server()
    async with lending(home, upstream, authority, server) as (egress, door, stand_in, _):
        egress.secrets.set("second", "second-value-2")
        await egress.bindings.set(binding("second", ["good.example"], []))
        second = (await environment(door))["MC_SECRET_SECOND"]
        await asyncio.gather(*(
            call(door, asking(f"/to/good.example/{number % 2}", f"X-Key: {(stand_in, second)[number % 2]}"))
            for number in range(40)
        ))
        assert len(server.heads) == 40
        for head in server.heads:
            assert (REAL.encode() in head) == head.startswith(b"GET /0") == (b"second-value-2" not in head)
