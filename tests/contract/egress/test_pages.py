"""The way of pages over a real door, with the agent's `web_fetch` and with whatever a program says there."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import KEY, call, gate, read_request, until

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import WebFetch
from microclaw.agent.tools.web import web_fetch
from microclaw.agent.workspace import Workspace
from microclaw.core.pages import PAGE_BYTES_MAX
from microclaw.core.sentinels import binding
from microclaw.egress import pages
from microclaw.egress.dial import World


class Site:
    """A server; what it was sent, and its answers by path."""

    def __init__(self, **answers: bytes) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.answers = {f"/{path}": answer for path, answer in answers.items()}

    async def __call__(self, reader, writer):
        head, body = await read_request(reader)
        self.heads.append(head)
        self.bodies.append(body)
        path = head.split(b" ")[1].decode().partition("?")[0]
        writer.write(self.answers.get(path) or reply(b"<title>T</title><p>One &amp; two", "Content-Type: text/html"))
        await writer.drain()


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


@asynccontextmanager
async def site(home, upstream, authority, server, *, allow=("good.example web_fetch",), tls=True):
    """(egress, a door of group home, what was dialled)."""
    port = await upstream(server, tls=authority.server() if tls else None)
    outside = Outside({"good.example": [PUBLIC], "other.example": [PUBLIC], "inner.example": ["10.0.0.1"]}, port)
    world = World(resolve=outside.resolve, dial=outside.dial, is_own=lambda _: False, tls=authority.client)
    async with gate(home, backend="local", allow=allow, world=world) as egress:
        yield egress, await egress.doors.open("w1", "home", now_ms=1), outside


async def fetched(door: Path, url: str) -> str:
    return await web_fetch(WebFetch(url=url), Workspace(root=door, egress_socket=door / "egress.sock"))


def asking(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode()


async def newest(egress) -> tuple[str, str, str]:
    entry = (await egress.audit.tail(1))[0]
    return entry.action, entry.subject, entry.outcome


async def test_ac38_a_rule_for_web_fetch_gives_pages_and_no_other_way(home, upstream, authority):
    server = Site()
    allow = ("good.example web_fetch", "good.example:80 web_fetch")
    async with site(home, upstream, authority, server, allow=allow) as (egress, door, outside):
        assert await fetched(door, "https://good.example/a?b=c#d") == "T\nOne & two"
        assert await newest(egress) == ("egress.page", "good.example:443", "allow")
        assert server.heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\n") and outside.dialled == [(PUBLIC, 443)]
        for raw in (
            b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n", asking("/to/good.example/"),
            asking("http://good.example/"), asking("/to/good.example/", method="POST"),
        ):
            got = await call(door, raw)
            assert got.startswith(b"HTTP/1.1 403") and b"for bash, only for web_fetch" in got, raw
            assert b"microclaw egress allow good.example" in got and b"--tool bash" in got
        assert len(server.heads) == 1


async def test_ac38_a_rule_for_programs_gives_no_pages_and_a_deny_for_pages_leaves_programs(home, upstream, authority):
    server = Site()
    allow = ("good.example bash", "other.example")
    async with site(home, upstream, authority, server, allow=allow) as (egress, door, _):
        with pytest.raises(ToolError, match=r"for web_fetch, only for bash.*--tool web_fetch.*\(403\)"):
            await fetched(door, "https://good.example/")
        assert await newest(egress) == ("egress.page", "good.example:443", "deny")
        assert (await call(door, asking("/to/good.example/"))).startswith(b"HTTP/1.1 200")
        await egress.rules.change("other.example", "deny", "", now_ms=1, tool="web_fetch")
        with pytest.raises(ToolError, match=r"denied by the rule other\.example:443 web_fetch"):
            await fetched(door, "https://other.example/")
        assert (await call(door, asking("/to/other.example/"))).startswith(b"HTTP/1.1 200")
        await egress.rules.change("other.example", "forget", "", now_ms=1, tool="web_fetch")
        assert await fetched(door, "https://other.example/") == "T\nOne & two"


async def test_ac38_a_program_gets_no_more_by_the_way_of_pages_than_the_tool(home, upstream, authority):
    server = Site()
    async with site(home, upstream, authority, server) as (egress, door, _):
        got = await call(door, asking(
            "/page/https://good.example/x", "Authorization: Bearer abc", "Cookie: a=b", "X-Data: exfiltrated",
            "User-Agent: evil", "Accept: evil", "Upgrade: websocket", "Expect: 100-continue",
        ))
        assert got.startswith(b"HTTP/1.1 200")
        assert sorted(server.heads[0].strip().split(b"\r\n")) == sorted([
            b"GET /x HTTP/1.1", b"host: good.example", b"user-agent: microclaw", b"accept: text/*, */*;q=0.5",
            b"accept-encoding: identity", b"connection: close",
        ])
        for raw in (
            asking("/page/https://good.example/", method="POST"), asking("/page/https://good.example/", method="HEAD"),
            asking("/page/https://good.example/", "Content-Length: 1") + b"x",
            asking("/page/https://good.example/", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        ):
            got = await call(door, raw)
            assert got.startswith(b"HTTP/1.1 403") and b"pages are read" in got, raw
            assert await newest(egress) == ("egress.page", "good.example:443", "deny")
        assert len(server.heads) == 1


@pytest.mark.parametrize("address", [
    "", "good.example/", "ftp://good.example/", "https:///x", "https://me@good.example/", "https://127.0.0.1/",
    "https://[::1]/", "https://2130706433/", "https://good.example:0/", "http://good.example:8080/",
    "https://good.example\\@other.example/", "//good.example/", "https://[good.example/",
])
async def test_ac38_what_is_no_address_of_a_page_is_refused(home, upstream, authority, address):
    async with site(home, upstream, authority, Site()) as (egress, door, outside):
        got = await call(door, asking(f"/page/{address}"))
        assert got.startswith(b"HTTP/1.1 400") and outside.resolved == []
        assert (await newest(egress))[::2] == ("egress.page", "deny")


async def test_ac38_each_redirect_is_judged_anew(home, upstream, authority):
    def led(place: str) -> bytes:
        return reply(b"", f"Location: {place}", status="302 Found")

    server = Site(
        near=led("/there"), far=led("https://other.example/"), meta=led("http://169.254.169.254/latest"),
        inner=led("https://inner.example/"), plain=led("http://good.example/"), round=led("/round"),
    )
    allow = ("good.example web_fetch", "inner.example")
    async with site(home, upstream, authority, server, allow=allow) as (_egress, door, outside):
        assert await fetched(door, "https://good.example/near") == "T\nOne & two"
        for path, why in {
            "far": "other.example:443 is not on the allow-list", "meta": "by name only", "inner": "private network",
            "plain": "good.example:80 is not on the allow-list", "round": "more than 5 redirects",
        }.items():
            with pytest.raises(ToolError, match=why):
                await fetched(door, f"https://good.example/{path}")
        assert {address for address, _ in outside.dialled} == {PUBLIC}


async def test_ac48_secrets_do_not_go_out_in_an_address_nor_come_back_in_a_page(home, upstream, authority):
    body = b"key " + KEY.encode() + b"!"
    server = Site(echo=reply(
        body, "Content-Type: text/plain", f"Location: /{KEY}", f"X-Echo: {KEY}", "Set-Cookie: a=b",
        "X-Egress-Reason: forged",
    ))
    async with site(home, upstream, authority, server) as (egress, door, outside):
        egress.secrets.set("llm", KEY)
        egress.secrets.set("hub", "a-real-value")
        await egress.bindings.set(binding("hub", ["good.example"], []))
        got = await call(door, b"GET /environment HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")
        stand_in = json.loads(got.partition(b"\r\n\r\n")[2])["MC_SECRET_HUB"]
        for address, why in ((f"?k={KEY}", b"holds a secret"), (f"?k={stand_in}", b"none is lent to pages")):
            got = await call(door, asking(f"/page/https://good.example/{address}"))
            assert got.startswith(b"HTTP/1.1 403") and why in got and KEY.encode() not in got
        assert outside.resolved == [] and KEY not in repr(await egress.audit.tail(9))
        got = await call(door, asking("/page/https://good.example/echo"))
        head, _, page = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"[REDACTED]" in page and KEY.encode() not in got
        names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
        assert names <= {b"content-type", b"location", b"transfer-encoding", b"connection", b"date", b"server"}


async def test_a_long_page_is_cut_and_never_within_a_secret(home, upstream, authority):
    body = b"x" * (PAGE_BYTES_MAX - 5) + KEY.encode() + b"y" * 3_000_000
    server = Site(long=reply(body, "Content-Type: text/plain"))
    async with site(home, upstream, authority, server) as (egress, door, _):
        egress.secrets.set("llm", KEY)
        page = await fetched(door, "https://good.example/long")
        assert len(page) == PAGE_BYTES_MAX and page.lstrip("x") == "[REDA"


async def test_a_page_of_port_80_needs_a_rule_that_names_it(home, upstream, authority):
    allow = ("good.example:80 web_fetch", "other.example")
    async with site(home, upstream, authority, Site(), allow=allow, tls=False) as (_egress, door, outside):
        assert await fetched(door, "http://good.example/") == "T\nOne & two"
        assert outside.dialled == [(PUBLIC, 80)]
        with pytest.raises(ToolError, match=r"other\.example:80 is not on the allow-list"):
            await fetched(door, "http://other.example/")


async def test_what_the_server_says_is_told_and_what_it_does_wrong_is_said(home, upstream, authority, monkeypatch):
    server = Site(
        gone=reply(b"nothing here", "Content-Type: text/plain", status="404 Not Found"), odd=b"SMTP ready\r\n\r\n",
        packed=reply(b"abc", "Content-Encoding: gzip"),
    )
    allow = ("good.example", "wrong.example")
    async with site(home, upstream, authority, server, allow=allow) as (egress, door, outside):
        outside.names["wrong.example"] = [PUBLIC]
        for url, why in {
            "https://good.example/gone": "status 404: nothing here", "https://good.example/odd": "not HTTP/1.1",
            "https://good.example/packed": "compressed", "https://wrong.example/": "certificate is not accepted",
        }.items():
            with pytest.raises(ToolError, match=why):
                await fetched(door, url)
        await until(lambda: egress.proxy.under_way == 0)


async def test_a_page_that_never_comes_or_never_ends_is_given_up(home, upstream, authority, monkeypatch):
    monkeypatch.setattr(pages, "ANSWER_S_MAX", 0.3)
    monkeypatch.setattr(pages, "PAGE_S_MAX", 1.0)

    async def dripping(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/silent" not in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n")
        while b"/silent" not in head:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)
        await reader.read()

    async with site(home, upstream, authority, dripping) as (egress, door, _):
        with pytest.raises(ToolError, match="gave no answer within"):
            await fetched(door, "https://good.example/silent")
        with pytest.raises(ToolError, match=r"IncompleteRead|reset"):
            await fetched(door, "https://good.example/drip")
        await until(lambda: egress.proxy.under_way == 0 and egress.connections.open == 0)


async def test_ac46_the_owner_is_asked_for_a_new_host_and_a_yes_holds_for_every_way(home, upstream, authority):
    async with site(home, upstream, authority, Site(), allow=()) as (egress, door, outside):
        with pytest.raises(ToolError, match="the owner was asked for a yes"):
            await fetched(door, "https://good.example/")
        assert outside.resolved == []
        (row,) = await egress.approvals.rows()
        assert (row.action.kind, row.action.target, row.state) == ("host", "good.example:443", "pending")
        assert await egress.approvals.answer(row.code, "always", "cli") == ""
        assert await fetched(door, "https://good.example/") == "T\nOne & two"
        assert (await call(door, asking("/to/good.example/"))).startswith(b"HTTP/1.1 200")
        verdict = egress.rules.decide("good.example", 443, "home", "bash")
        assert verdict.allowed and not verdict.websocket and not verdict.opaque


async def test_pages_count_into_the_rate_of_their_worker(home, upstream, authority):
    async with site(home, upstream, authority, Site(), allow=()) as (_egress, door, _):
        got = await asyncio.gather(*(call(door, asking("/page/https://127.0.0.1/")) for _ in range(350)))
        assert any(answer.startswith(b"HTTP/1.1 429") for answer in got)
