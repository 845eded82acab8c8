"""Get a page through the egress door: an HTTP proxy on a Unix socket, which alone decides what may be reached.

Only the standard library, so that it works with every backend: `http.client` is given the socket that it talks on.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import WebFetch
from microclaw.agent.workspace import Workspace
from microclaw.core.page_text import page_text
from microclaw.core.text import visible

#: A longer page is cut.
PAGE_BYTES_MAX = 2_000_000
#: Silence of the other side.
FETCH_S_MAX = 30.0
REDIRECTS_MAX = 5


class _ThroughDoor(http.client.HTTPConnection):
    """A connection to the proxy behind the door."""

    def __init__(self, door: Path) -> None:
        super().__init__("egress", timeout=FETCH_S_MAX)
        self._door = door

    def connect(self) -> None:
        self.sock = _dial(self._door)


class _ThroughTunnel(http.client.HTTPSConnection):
    """TLS from here to the host, through the proxy's CONNECT."""

    def __init__(self, door: Path, host: str, port: int) -> None:
        super().__init__(host, port, timeout=FETCH_S_MAX)
        self._door = door

    def connect(self) -> None:
        import ssl

        raw = _dial(self._door)
        raw.sendall(f"CONNECT {self.host}:{self.port} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(raw, method="CONNECT")
        answer.begin()
        if answer.status != http.client.OK:
            reason = answer.read(2000).decode("utf-8", "replace").strip() if answer.length else answer.reason
            raw.close()
            raise ToolError(f"{self.host} can't be reached: {reason} ({answer.status})")
        self.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=self.host)


def _dial(door: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(FETCH_S_MAX)
    try:
        sock.connect(str(door))
    except OSError as error:
        sock.close()
        raise ToolError(f"there is no way out of this sandbox: {error.strerror}") from error
    return sock


def _get(url: SplitResult, door: Path) -> tuple[int, str, str, bytes]:
    """Status, Location, Content-Type and body of one request. Raises ToolError, ValueError for an impossible port."""
    if not url.hostname:
        raise ToolError("the address names no host")
    port = url.port or 443
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection, target = _ThroughTunnel(door, url.hostname, port), path
    else:
        connection, target = _ThroughDoor(door), f"http://{url.netloc.rpartition('@')[2]}{path}"
    try:
        host = url.netloc.rpartition("@")[2]
        connection.request("GET", target, headers={"Host": host, "User-Agent": "microclaw", "Accept": "text/*, */*"})
        answer = connection.getresponse()
        body = answer.read(PAGE_BYTES_MAX)
        return answer.status, answer.getheader("Location", ""), answer.getheader("Content-Type", ""), body
    except (OSError, http.client.HTTPException) as error:
        raise ToolError(f"{url.hostname} can't be reached: {error}") from error
    finally:
        connection.close()


def _fetch(address: str, door: Path) -> str:
    for _ in range(REDIRECTS_MAX + 1):
        status, location, kind, body = _get(urlsplit(address), door)
        if status in (301, 302, 303, 307, 308) and location:
            address = urljoin(address, location)
            if urlsplit(address).scheme not in ("http", "https"):
                raise ToolError(f"it leads to {address}, which is neither http nor https")
            continue
        text = body.decode("utf-8", "replace")
        if "html" in kind:
            text = page_text(text)
        if status >= 400:
            raise ToolError(f"status {status}: {text[:2000]}")
        return text
    raise ToolError(f"more than {REDIRECTS_MAX} redirects")


async def web_fetch(args: WebFetch, workspace: Workspace) -> str:
    """The tool."""
    try:
        # A page is what strangers wrote: what they hid in it is told, as in a message.
        return visible(await asyncio.to_thread(_fetch, args.url, workspace.egress_socket))
    except ValueError as error:
        raise ToolError(f"the address can't be read: {error}") from error
