"""The connection behind a tunnel that is read is kept from one request to the next; every request is judged all the
same, and none is sent twice that must not be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.contract.egress.in_tunnel import WAIT_S_MAX, asking, opened
from tests.contract.egress.outside import PUBLIC
from tests.contract.egress.test_read_tunnels import reading, told
from tests.contract.egress.through_door import call, read_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers as `answer` says, by (connection, request) from 0 on; b"" = it hangs up instead."""

    def __init__(self, answer: Callable[[int, int], bytes] = lambda _connection, _request: OK) -> None:
        self._answer = answer
        #: Per connection, the request lines and headers that came.
        self.seen: list[list[bytes]] = []

    async def __call__(self, reader, writer):
        number = len(self.seen)
        self.seen.append([])
        while True:
            self.seen[number].append((await read_request(reader))[0])
            if not (said := self._answer(number, len(self.seen[number]) - 1)):
                return
            writer.write(said)
            await writer.drain()
            if b"200 OK" not in said:
                return

    @property
    def lines(self) -> list[list[str]]:
        return [[head.split(b" HTTP/")[0].decode() for head in heads] for heads in self.seen]


class Program:
    """Asks in one tunnel, each request after the answer to the one before."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"", host: str = "good.example") -> bytes:
        self.writer.write(asking(path, method=method, body=body, host=host).replace(b"Connection: close\r\n", b""))
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), WAIT_S_MAX)
        if method != "HEAD":
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await asyncio.wait_for(self._reader.readexactly(length), WAIT_S_MAX)
        return head


async def test_the_requests_of_a_tunnel_share_a_connection_and_those_of_two_never_do(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, outside):
        one, other = Program(*await opened(door)), Program(*await opened(door))
        for number in range(3):
            assert b" 200 " in await one.ask(f"/one/{number}")
            assert b" 200 " in await other.ask(f"/other/{number}", method="HEAD" if number == 2 else "GET")
        assert server.lines[0] == [f"GET /one/{number}" for number in range(3)]
        assert server.lines[1] == ["GET /other/0", "GET /other/1", "HEAD /other/2"] and len(server.seen) == 2
        assert not any(b"connection: close" in head.lower() for heads in server.seen for head in heads)
        assert outside.resolved == ["good.example"] * 2 and outside.dialled == [(PUBLIC, 443)] * 2
        assert (await told(egress)).count(("egress.http", "good.example:443", "allow")) == 6
        one.writer.close()
        other.writer.close()


async def test_ac38_each_request_on_a_kept_connection_is_judged_anew(home, upstream, authority):
    server = Server()
    async with reading(home, upstream, authority, server) as (egress, door, _):
        program = Program(*await opened(door))
        assert b" 200 " in await program.ask("/1")
        egress.secrets.set("llm", "hunter2hunter2")
        assert b" 403 " in await program.ask("/?k=hunter2hunter2")
        program.writer.close()
        program = Program(*await opened(door))
        assert b" 200 " in await program.ask("/2")
        assert b" 421 " in await program.ask("/3", host="other.example")
        program.writer.close()
        program = Program(*await opened(door))
        assert b" 200 " in await program.ask("/4")
        await egress.rules.change("good.example", "deny", "", now_ms=1)
        assert b" 403 " in await program.ask("/5")
        program.writer.close()
        assert server.lines == [["GET /1"], ["GET /2"], ["GET /4"]]


@pytest.mark.parametrize("said", [
    OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK.replace(b"1.1", b"1.0"), OK + b"and more",
])
async def test_a_connection_on_which_nothing_may_follow_is_not_used_again(home, upstream, authority, said):
    server = Server(lambda _connection, _request: said)
    async with reading(home, upstream, authority, server) as (_, door, _outside):
        program = Program(*await opened(door))
        for number in range(2):
            assert b" 200 " in await program.ask(f"/{number}")
        assert server.lines == [["GET /0"], ["GET /1"]]
        program.writer.close()


@pytest.mark.parametrize("goodbye", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_what_is_lost_on_a_connection_that_the_server_closed_is_asked_again_on_a_new_one(
    home, upstream, authority, goodbye,
):
    server = Server(lambda connection, request: goodbye if connection == 0 and request == 1 else OK)
    async with reading(home, upstream, authority, server) as (egress, door, _):
        program = Program(*await opened(door))
        for number in range(3):
            assert b" 200 " in await program.ask(f"/{number}")
        assert server.lines == [["GET /0", "GET /1"], ["GET /1", "GET /2"]]
        assert (await told(egress)).count(("egress.http", "good.example:443", "allow")) == 3, "it is one request"
        program.writer.close()


async def test_what_a_new_connection_loses_is_not_asked_again(home, upstream, authority):
    server = Server(lambda _connection, _request: b"")
    async with reading(home, upstream, authority, server) as (_, door, _outside):
        program = Program(*await opened(door))
        got = await program.ask("/0")
        assert b" 502 good.example:443 gave no answer: it closed the connection" in got and len(server.seen) == 1
        program.writer.close()


@pytest.mark.parametrize("part", [b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_what_was_answered_in_part_is_not_asked_again(home, upstream, authority, part):
    server = Server(lambda _connection, request: part if request else OK)
    async with reading(home, upstream, authority, server) as (_, door, _outside):
        program = Program(*await opened(door))
        assert b" 200 " in await program.ask("/0")
        assert b" 502 " in await program.ask("/1")
        assert server.lines == [["GET /0", "GET /1"]]
        program.writer.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_what_changes_something_goes_by_a_new_connection_and_is_sent_once(home, upstream, authority, method):
    server = Server(lambda connection, _request: b"" if connection == 2 else OK)
    async with reading(home, upstream, authority, server) as (_, door, _outside):
        program = Program(*await opened(door))
        assert b" 200 " in await program.ask("/0")
        assert b" 200 " in await program.ask("/1", method=method, body=b"x")
        assert b" 200 " in await program.ask("/2")
        assert b" 502 " in await program.ask("/3", method=method, body=b"x")
        assert server.lines == [["GET /0"], [f"{method} /1", "GET /2"], [f"{method} /3"]]
        program.writer.close()


async def test_a_refused_head_request_is_told_why_and_has_no_body(home, upstream, authority, caplog):
    async with reading(home, upstream, authority, Server()) as (egress, door, _):
        program = Program(*await opened(door))
        await egress.rules.change("good.example", "deny", "", now_ms=1)
        assert b" 403 good.example:443 is denied" in await program.ask("/", method="HEAD")
        program.writer.close()
        got = await call(door, asking("/nowhere", method="HEAD"))
        assert got.startswith(b"HTTP/1.1 404 this door leads to") and got.endswith(b"\r\n\r\n")
    assert "visit failed" not in caplog.text
