"""Pages through the door: a Unix socket, behind which egress gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import WebFetch
from microclaw.agent.tools.web import web_fetch
from microclaw.agent.workspace import Workspace
from microclaw.core.page_text import page_text

PAGE = (
    "<html><head><title>T</title><style>p{}</style></head><body><p>One &amp; two</p>"
    "<script>bad()</script><a href='https://x.test/y'>link</a></body>"
)
ANSWERS = {
    "GET /page/http://a.test/page?q=1 HTTP/1.1": ("200 OK", "text/html", PAGE),
    "GET /page/http://a.test/away HTTP/1.1": ("302 Found", "text/plain", "", "http://a.test/page?q=1"),
    "GET /page/http://a.test/round HTTP/1.1": ("302 Found", "text/plain", "", "/round"),
    "GET /page/http://a.test/file HTTP/1.1": ("302 Found", "text/plain", "", "file:///etc/passwd"),
    "GET /page/http://a.test/gone HTTP/1.1": ("404 Not Found", "text/plain", "nothing here"),
}
WHY = "evil.test is not on the allow-list; `microclaw egress allow evil.test`"
DENIED = (f"403 Forbidden\r\nX-Egress-Reason: {WHY}", "application/json", "{}")


@asynccontextmanager
async def door(workspace: Workspace) -> AsyncIterator[list[str]]:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().strip()
        seen.append(line)
        while (await reader.readline()).strip():
            pass
        status, kind, body, *location = ANSWERS.get(line, DENIED)
        more = f"Location: {location[0]}\r\n" if location else ""
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body.encode())}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, workspace.egress_socket)
    async with server:
        yield seen


async def fetch(workspace: Workspace, url: str) -> str:
    return await web_fetch(WebFetch(url=url), workspace)


async def test_a_page_comes_as_text_by_its_full_address(workspace: Workspace) -> None:
    async with door(workspace) as seen:
        assert await fetch(workspace, "http://user:pw@a.test/page?q=1") == "T\nOne & two\n[https://x.test/y] link"
        assert await fetch(workspace, "http://a.test/away") == await fetch(workspace, "http://a.test/page?q=1")
    assert seen[0] == "GET /page/http://a.test/page?q=1 HTTP/1.1"


@pytest.mark.parametrize(("url", "why"), [
    ("http://evil.test/", "not on the allow-list"), ("https://evil.test/", "not on the allow-list"),
    ("http://a.test/gone", "404: nothing here"), ("http://a.test/round", "redirects"),
    ("http://a.test/file", "neither http nor https"), ("http:///x", "no host"),
    ("http://[a.test/", "can't be read"),
])
async def test_what_can_not_be_had_says_why(workspace: Workspace, url: str, why: str) -> None:
    async with door(workspace):
        with pytest.raises(ToolError, match=why):
            await fetch(workspace, url)


async def test_the_door_is_asked_for_the_page_and_told_nothing_but_its_address(workspace: Workspace) -> None:
    async with door(workspace) as seen:
        with pytest.raises(ToolError, match=r"a.test can't be reached: evil.test is not on the allow-list.* \(403\)"):
            await fetch(workspace, "https://me:pw@a.test:8443/page?q=1#there")
    assert seen == ["GET /page/https://a.test:8443/page?q=1 HTTP/1.1"]


async def test_without_a_door_there_is_no_way_out(workspace: Workspace) -> None:
    with pytest.raises(ToolError, match="no way out"):
        await fetch(workspace, "http://a.test/")


@pytest.mark.parametrize(
    "page", ["", "<", "<p", "<script>", "&#xfffffff;", "<a href>x</a>", "<![CDATA[", 5000 * "<div>"]
)
def test_a_broken_page_is_read_as_far_as_it_goes(page: Any) -> None:
    assert isinstance(page_text(page), str)


@pytest.mark.parametrize("page", [
    "<div hidden>obey</div>shown", "<div style='color:red; Display: NONE'><div>obey</div>obey</div>shown",
    "<p style='font-size:0px'>obey<p>shown", "<span style='visibility:hidden'>obey<br></span>shown",
    "<b style='opacity:0'>obey</b>shown", "<!-- obey -->shown", "<script>obey</script>shown",
])
def test_ac49_what_a_page_hides_from_people_is_not_read(page: str) -> None:
    assert page_text(page) == "shown"


def test_what_only_looks_hidden_is_read() -> None:
    text = page_text("<img hidden><div style='opacity:0.5'>a</div><p style='display:block'>b</p>")
    assert text.split() == ["a", "b"]
