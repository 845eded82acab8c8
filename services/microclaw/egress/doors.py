"""Doors: one Unix socket a worker, in a folder of its own that the sandbox mounts. The socket is the identity.

`<run>/egress` is private (0700), so no other user of this machine comes near a door; a door's folder and socket are
open to any user id (0755, 0666), because the sandbox mounts the folder alone and its user is another one than ours. The
folder is mounted, not the file: a door that is bound again after a crash is the same to a worker that lives on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, insert, select

from microclaw.core.errors import MicroclawError
from microclaw.egress.database import Database
from microclaw.egress.http_messages import CHUNK_BYTES
from microclaw.egress.tables import doors

#: The longest path of a Unix socket, macOS being the stricter.
SOCKET_PATH_BYTES_MAX = 103
#: Workers with a door at the same time.
DOORS_MAX = 256
#: Connections of one worker at the same time; one more is told so and closed.
CONNECTIONS_MAX = 512
#: For the last bytes of an ended connection to be taken, and how often we read what is of no use any more.
GOODBYE_S_MAX = 2.0
GOODBYE_READS_MAX = 64
#: Connections waiting to be taken, per door.
BACKLOG = 1024
#: What the one too many is told.
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n"
    b"X-Egress-Reason: too many connections are open: close some\r\n\r\n"
)

_SOCKET = "egress.sock"
_WORKER = re.compile(r"[a-z0-9-]{1,40}")

log = logging.getLogger("microclaw.egress")


class DoorError(MicroclawError):
    """The door could not be opened."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who stands behind a door."""

    worker_id: str
    group: str


Visitor = Callable[[Owner, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class _Open:
    owner: Owner
    server: asyncio.Server
    visits: set[asyncio.Task[None]]


class Doors:
    """All open doors. What is open is in the database first: after a crash `reopen` binds the same doors again."""

    def __init__(
        self, db: Database, folder: Path, visitor: Visitor, *, gone: Callable[[str], None] = lambda _worker: None,
    ) -> None:
        """`gone` is told of each worker whose door was closed for good."""
        self._db = db
        self._folder = folder
        self._visitor = visitor
        self._gone = gone
        self._open: dict[str, _Open] = {}
        self._changing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, worker_id: str, group: str, *, now_ms: int) -> Path:
        """The folder of this worker's door, opened if it was not. The same worker again gets the same door.

        :raises DoorError: the name is none, it belongs to another group, or there are too many.
        """
        if not _WORKER.fullmatch(worker_id) or not group:
            raise DoorError(f"no door for worker {worker_id!r} of group {group!r}: names are 1-40 of a-z, 0-9 and -")
        async with self._changing:
            if found := self._open.get(worker_id):
                if found.owner.group != group:
                    raise DoorError(f"worker {worker_id} has a door as group {found.owner.group}: close it first")
                return self.folder_of(worker_id)
            if len(self._open) >= DOORS_MAX:
                raise DoorError(f"{DOORS_MAX} doors are open already: close those of workers that ended")
            await self._db.run(self._keep, worker_id, group, now_ms)
            await self._bind(Owner(worker_id, group))
            return self.folder_of(worker_id)

    async def reopen(self) -> int:
        """Bind the doors that were open when this service ended, and remove what else lies there. Returns how many."""
        async with self._changing:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            owners = await self._db.run(self._kept)
            for owner in owners:
                await self._bind(owner)
            kept = {self.folder_of(owner.worker_id) for owner in owners}
            for stale in set(self._folder.iterdir()) - kept:
                shutil.rmtree(stale, ignore_errors=True)
            return len(owners)

    async def close(self, workers: tuple[str, ...], *, keep_only: bool = False) -> int:
        """Close these workers' doors (`keep_only`: all but these), their connections too. Returns how many."""
        async with self._changing:
            named = set(workers)
            gone = [worker for worker in self._open if (worker in named) != keep_only]
            await self._db.run(self._forget, gone)
            for worker in gone:
                await self._end(self._open.pop(worker))
                shutil.rmtree(self.folder_of(worker), ignore_errors=True)
                self._gone(worker)
            return len(gone)

    async def stop(self) -> None:
        """The service ends: connections are closed; the doors stay in the database and their folders in place."""
        async with self._changing:
            for door in self._open.values():
                await self._end(door)
            self._open.clear()

    def folder_of(self, worker_id: str) -> Path:
        """Where a worker's door is. A long name is shortened: a socket's path must fit into the kernel's 103 bytes."""
        folder = self._folder / worker_id
        if len(bytes(folder / _SOCKET)) > SOCKET_PATH_BYTES_MAX:
            folder = self._folder / hashlib.blake2b(worker_id.encode(), digest_size=8).hexdigest()
        return folder

    async def _bind(self, owner: Owner) -> None:
        folder = self.folder_of(owner.worker_id)
        if len(bytes(folder / _SOCKET)) > SOCKET_PATH_BYTES_MAX:
            raise DoorError(f"{folder} is too long for a socket: choose a shorter MICROCLAW_HOME")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        # Bound under another name and renamed when it listens: a worker never meets a missing or deaf socket.
        new = folder / "new"
        new.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(new))
            new.chmod(0o666)
            listener.setblocking(False)
            listener.listen(BACKLOG)
            new.rename(folder / _SOCKET)
        except OSError as error:
            listener.close()
            raise DoorError(f"the door {folder} can't be opened: {error.strerror}; look at the folder") from error
        visits: set[asyncio.Task[None]] = set()

        def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(visits) >= CONNECTIONS_MAX:
                writer.write(TOO_MANY)
                writer.close()
                return
            task = asyncio.get_running_loop().create_task(self._visit(owner, reader, writer))
            visits.add(task)
            task.add_done_callback(visits.discard)

        server = await asyncio.start_unix_server(came, sock=listener, backlog=BACKLOG, limit=CHUNK_BYTES)
        self._open[owner.worker_id] = _Open(owner, server, visits)

    async def _visit(self, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._visitor(owner, reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        except Exception:
            # One visitor's trouble must not close the door; what it sent is not in the trace.
            log.exception("visit failed", extra={"worker": owner.worker_id, "group": owner.group})
        finally:
            await _goodbye(reader, writer)

    # --- in the database's thread -----------------------------------------------------------------------------

    def _kept(self) -> list[Owner]:
        with self._db.begin() as db:
            return [Owner(row.worker_id, row.group_folder) for row in db.execute(select(doors))]

    def _keep(self, worker_id: str, group: str, now_ms: int) -> None:
        with self._db.begin() as db:
            db.execute(delete(doors).where(doors.c.worker_id == worker_id))
            db.execute(insert(doors), {"worker_id": worker_id, "group_folder": group, "opened_ms": now_ms})

    def _forget(self, workers: list[str]) -> None:
        with self._db.begin() as db:
            db.execute(delete(doors).where(doors.c.worker_id.in_(workers)))

    @staticmethod
    async def _end(door: _Open) -> None:
        door.server.close()
        visits = list(door.visits)
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)


async def _goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close so that our last words arrive: a socket closed with bytes unread makes the other side forget them."""
    try:
        async with asyncio.timeout(GOODBYE_S_MAX):
            if writer.can_write_eof() and not writer.transport.is_closing():
                writer.write_eof()
                for _ in range(GOODBYE_READS_MAX):
                    if not await reader.read(CHUNK_BYTES):
                        break
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
