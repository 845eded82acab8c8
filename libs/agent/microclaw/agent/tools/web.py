"""Get a page through the egress door, a Unix socket: egress gets it, and alone decides what may be reached.

Only the standard library, so that it works with every backend: `http.client` is given the socket that it talks on.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import WebFetch
from microclaw.agent.workspace import Workspace
from microclaw.core.page_text import page_text
from microclaw.core.pages import PAGE_BYTES_MAX, PREFIX
from microclaw.core.text import visible

#: Silence of egress, which may have to look for the host, to connect, and to wait.
FETCH_S_MAX = 60.0
REDIRECTS_MAX = 5


class _ThroughDoor(http.client.HTTPConnection):
    """A connection to egress."""

    def __init__(self, door: Path) -> None:
        super().__init__("egress", timeout=FETCH_S_MAX)
        self._door = door

    def connect(self) -> None:
        self.sock = _dial(self._door)


def _dial(door: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(FETCH_S_MAX)
    try:
        sock.connect(str(door))
    except OSError as error:
        sock.close()
        raise ToolError(f"there is no way out of this sandbox: {error.strerror}") from error
    return sock


def _get(address: str, door: Path) -> tuple[int, str, str, bytes]:
    """Status, Location, Content-Type and body of one request. Raises ToolError, ValueError."""
    url = urlsplit(address)
    if not url.hostname:
        raise ToolError("the address names no host")
    plain = url._replace(netloc=url.netloc.rpartition("@")[2], fragment="")
    connection = _ThroughDoor(door)
    try:
        connection.request("GET", PREFIX + plain.geturl())
        answer = connection.getresponse()
        body = answer.read(PAGE_BYTES_MAX)
        # Egress's word: it lets no server outside set this header.
        if reason := answer.getheader("X-Egress-Reason"):
            raise ToolError(f"{url.hostname} can't be reached: {reason} ({answer.status})")
        return answer.status, answer.getheader("Location", ""), answer.getheader("Content-Type", ""), body
    except (OSError, http.client.HTTPException) as error:
        raise ToolError(f"{url.hostname} can't be reached: {error}") from error
    finally:
        connection.close()


def _fetch(address: str, door: Path) -> str:
    for _ in range(REDIRECTS_MAX + 1):
        status, location, kind, body = _get(address, door)
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
