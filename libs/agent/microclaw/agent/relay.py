"""The loopback relay: programs that know HTTP proxies reach egress's door through `127.0.0.1`.

The door is a Unix socket, which curl, pip, git and Node can't be given as their proxy. The relay listens on the
sandbox's own loopback device and carries bytes to the door and back, unread but for two headers of egress's own: the
reason of a refusal, and which authority programs have to trust. It adds no right: whatever runs in here can open the
door itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from microclaw.agent.asking_door import ask_door
from microclaw.agent.trust import Trust

#: Where it listens inside every sandbox (`microclaw.core.worker` names the place for whoever reads the contract).
HOST = "127.0.0.1"
PORT = 3128
#: Connections at the same time, below what one door takes; one more waits in the kernel's queue.
CONNECTIONS_MAX = 256
#: Carried at once.
CHUNK_BYTES = 64 << 10
#: Reasons remembered, and the characters of one.
REFUSALS_MAX = 50
REASON_CHARS_MAX = 500

#: Egress's own headers; it lets no server outside set them. Looked for in heads alone.
_STATUS = re.compile(rb"\AHTTP/1\.1 (\d{3}) ")
_REASON = re.compile(rb"^x-egress-reason: *([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_AUTHORITY = re.compile(rb"^x-egress-authority: *([0-9a-f]{1,64})\r?$", re.IGNORECASE | re.MULTILINE)
_DEAF = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n"
    b"X-Egress-Reason: %s\r\n\r\n"
)


def proxy_environment(port: int, bundle: str = "") -> dict[str, str]:
    """What tells curl, pip, git, Node, Python and their like to use the relay.

    `bundle`: the file of the certificates to trust, "" = each program's own idea.
    """
    proxy = f"http://{HOST}:{port}"
    found = {
        name: proxy
        for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (upper, upper.lower())
    }
    found |= dict.fromkeys(("NO_PROXY", "no_proxy"), f"localhost,{HOST},::1")
    found |= {
        # Node's fetch looks at the above only with this (22.21, 24 and newer).
        "NODE_USE_ENV_PROXY": "1",
        # Nobody is there to answer a question, and looking for a newer pip is one more refused host.
        "GIT_TERMINAL_PROMPT": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if bundle:
        found |= dict.fromkeys(
            ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "REQUESTS_CA_BUNDLE",
             "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT"), bundle,
        )
        found["WGETRC"] = str(Path(bundle).with_name("wgetrc"))
    return found


class Relay:
    """The relay of one sandbox."""

    def __init__(self, door: Path) -> None:
        self._door = door
        self._trust = Trust(door)
        #: One that egress reads was begun since it was last asked for refusals.
        self._tunnels = False
        self._server: asyncio.Server | None = None
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._visits: set[asyncio.Task[None]] = set()
        self._refusals: deque[str] = deque(maxlen=REFUSALS_MAX)
        #: Refusals of egress so far: what `refused_since` counts from.
        self.refused = 0
        self.port = 0

    async def start(self, port: int = PORT) -> None:
        """Listen; port 0 takes any. :raises OSError: somebody else listens there, or there is no loopback device."""
        self._server = await asyncio.start_server(self._came, HOST, port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut all connections."""
        if self._server is not None:
            self._server.close()
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        self._trust.close()

    async def environment(self, mine: Mapping[str, str]) -> dict[str, str]:
        """The environment of a program: `mine`, what leads it here (what is set already stays), and the sentinels of
        the credentials that this worker is lent now."""
        lent = await self._lent()
        return {**proxy_environment(self.port, self._trust.bundle), **mine, **lent}

    async def refused_since(self, count: int) -> list[str]:
        """The reasons of refusals after the first `count`, each once, oldest first."""
        if self._tunnels:
            # What was refused within TLS did not pass here for anybody to read.
            self._tunnels = False
            with suppress(OSError, ValueError):
                _, body = await ask_door(self._door, "/refusals")
                for status, reason in json.loads(body):
                    self._note(int(status), str(reason))
        fresh = list(self._refusals)[-(self.refused - count):] if self.refused > count else []
        return list(dict.fromkeys(fresh))

    # --- inside -----------------------------------------------------------------------------------------------

    async def _lent(self) -> dict[str, str]:
        try:
            headers, body = await ask_door(self._door, "/environment")
            await self._trust.keep(headers.get("x-egress-authority", ""))
            return {str(name): str(value) for name, value in json.loads(body).items()}
        except (OSError, ValueError):
            if not self._trust.bundle:
                await self._trust.keep("")
            return {}  # egress is away for a moment: a program without credentials says so by itself

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.get_running_loop().create_task(self._visit(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._places:
                await self._through_door(reader, writer)
        except OSError:
            pass  # one side is gone, and with it who could be told
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _through_door(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            door = await asyncio.open_unix_connection(str(self._door), limit=CHUNK_BYTES)
        except OSError as error:
            reason = f"egress does not answer ({error.strerror}): try again in a moment"
            self._note(502, reason)
            body = f'{{"error": {{"type": "egress_error", "message": "{reason}"}}}}'.encode()
            # What was asked is read first: a socket closed with bytes unread makes the other side forget our answer.
            await reader.read(CHUNK_BYTES)
            writer.write(_DEAF % (len(body), reason.encode()) + body)
            await writer.drain()
            return
        try:
            up = asyncio.ensure_future(_carry(reader, door[1]))
            down = asyncio.ensure_future(self._back(door[0], writer))
            try:
                # The door's end is the connection's end; the program's own is passed on, for it may still listen.
                await asyncio.wait({down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        finally:
            door[1].close()

    async def _back(self, door: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await door.read(CHUNK_BYTES)
        head = first.partition(b"\r\n\r\n")[0]
        if (status := _STATUS.match(head)) and (reason := _REASON.search(head)):
            self._note(int(status[1]), reason[1].decode("ascii", "replace"))
        if authority := _AUTHORITY.search(head):
            self._tunnels = True
            # Before the program goes on: most read the certificates when their tunnel is there.
            await self._trust.keep(authority[1].decode())
        writer.write(first)
        await _carry(door, writer)

    def _note(self, status: int, reason: str) -> None:
        self.refused += 1
        self._refusals.append(f"{reason[:REASON_CHARS_MAX]} ({status})")


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other, its end included. An OSError ends it."""
    with suppress(OSError):
        await writer.drain()
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
