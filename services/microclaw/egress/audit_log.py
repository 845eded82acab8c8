"""The audit log on disk: chained rows in `egress.db`, and the chain's head in a file of its own.

Entries that come while others are written share the next commit. The head file is written after the commit, so it
may be behind by what a kill cut off, never ahead; a database that is behind the head file was cut, and the gap stays
visible.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from microclaw.core.audit import Entry, Fault, Head, Verifier, chained
from microclaw.core.errors import UnhealthyError
from microclaw.egress.database import Database
from microclaw.egress.tables import audit

#: Rows read at once where the whole log is gone through.
PAGE_ROWS = 1000

log = logging.getLogger("microclaw.egress")

#: What is written in the transaction of an entry. Whatever it raises fails all entries of that commit.
Alongside = Callable[[Connection], None]


@dataclass(slots=True)
class _Waiting:
    """An entry on its way to the disk."""

    entry: Entry
    also: Alongside | None
    written: bool = False
    #: Why it was not.
    error: Exception | None = None


class AuditLog:
    """The log. One process, one event loop; the database's thread writes."""

    def __init__(
        self, db: Database, head_file: Path, *, clock_ms: Callable[[], int], clean: Callable[[str], str],
    ) -> None:
        """`clean` masks known secrets in every text before it is stored."""
        self._db = db
        self._head_file = head_file
        self._clock_ms = clock_ms
        self._clean = clean
        #: In the chain's order. The loop appends, the thread takes.
        self._waiting: deque[_Waiting] = deque()
        #: A turn of writing that was asked for and has not begun: it takes what is appended now, too.
        self._due = False
        #: The newest turn. Set and awaited by the loop alone.
        self._turn: asyncio.Future[None]
        #: What was found at start, for the owner; "" = nothing.
        self.trouble = ""
        self.head = db.run_at_start(self._find_head)

    async def record(
        self, actor: str, action: str, subject: str, outcome: str, detail: str = "", *, cause: bytes = b"",
        also: Alongside | None = None,
    ) -> None:
        """Returns when the entry is on disk, and what is written with it (`also`): both or neither. Once called it is
        written, though the caller may be cancelled meanwhile. An envelope (`cause`) that was recorded before is not
        recorded again.

        :raises UnhealthyError: it could not be written.
        """
        waiting = _Waiting(Entry(
            number=0, ts_ms=self._clock_ms(), actor=self._clean(actor), action=self._clean(action),
            subject=self._clean(subject), outcome=outcome, detail=self._clean(detail), cause=cause,
        ), also)
        self._waiting.append(waiting)
        if not self._due:
            # Said before it is asked for: the thread may be at it at once.
            self._due = True
            try:
                self._turn = self._db.ask(self._write)
            except UnhealthyError:
                self._due = False
                raise
        await asyncio.shield(self._turn)
        if not waiting.written:
            # Who waits is told: nothing is allowed that could not be written down.
            why = type(waiting.error).__name__
            raise UnhealthyError(
                f"the audit log can't be written ({why}): look at the disk that holds egress.db"
            ) from waiting.error

    async def entries(self, *, after: int = 0, limit: int = PAGE_ROWS) -> list[Entry]:
        """Entries with a greater number than `after`, oldest first."""
        return await self._db.run(self._page, after, limit)

    async def tail(self, count: int) -> list[Entry]:
        """The newest entries, oldest first."""
        return await self._db.run(self._tail, count)

    async def verify(self) -> tuple[Head, list[Fault]]:
        """Go through the whole chain. (its end, every fault.)"""
        verifier = Verifier(await self._db.run(self._noted))
        after: int | None = 0
        while after is not None:
            # Page by page, so that what is to be written meanwhile need not wait for all of a long log.
            after = await self._db.run(self._verify_page, verifier, after)
        return verifier.finish()

    # --- in the database's thread -----------------------------------------------------------------------------

    def _write(self) -> None:
        # First this, then the taking: whoever still saw this turn due has appended before.
        self._due = False
        batch: list[_Waiting] = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        try:
            self._store(batch)
        except Exception as error:
            log.exception("audit entries could not be written", extra={"count": len(batch)})
            for waiting in batch:
                waiting.error = error
        else:
            for waiting in batch:
                waiting.written = True

    def _store(self, batch: Sequence[_Waiting]) -> None:
        with self._db.begin() as db:
            known: set[bytes] = set()
            if causes := [waiting.entry.cause for waiting in batch if waiting.entry.cause]:
                known = set(db.execute(select(audit.c.cause).where(audit.c.cause.in_(causes))).scalars())
            fresh: list[Entry] = []
            for waiting in batch:
                entry = waiting.entry
                if entry.cause in known:
                    continue
                known |= {entry.cause} if entry.cause else set()
                fresh.append(entry)
                if waiting.also is not None:
                    waiting.also(db)
            rows, head = chained(self.head, fresh)
            if not rows:
                return
            db.execute(insert(audit), [
                {**msgspec.structs.asdict(row), "cause": row.cause or None} for row in rows
            ])
        self.head = head
        self._note(head)

    def _page(self, after: int, limit: int) -> list[Entry]:
        query = select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
        with self._db.begin() as db:
            return [_entry(row) for row in db.execute(query)]

    def _tail(self, count: int) -> list[Entry]:
        query = select(audit).order_by(audit.c.number.desc()).limit(count)
        with self._db.begin() as db:
            return [_entry(row) for row in db.execute(query)][::-1]

    def _verify_page(self, verifier: Verifier, after: int) -> int | None:
        """The number of its last entry; None = there is none."""
        page = self._page(after, PAGE_ROWS)
        for entry in page:
            verifier.take(entry)
        return page[-1].number if page else None

    def _find_head(self) -> Head:
        last = self._tail(1)
        stored = Head(number=last[0].number, hash=last[0].hash) if last else Head()
        noted = self._noted()
        if noted.number <= stored.number:
            if noted != stored:
                self._note(stored)
            return stored
        # Going on from the noted head leaves the gap in the numbers: every later `verify` finds it.
        self.trouble = (
            f"the audit log was cut: {noted.number - stored.number} entries after number {stored.number} are gone; "
            "see `microclaw audit verify`, and a backup of egress.db"
        )
        return noted

    def _noted(self) -> Head:
        try:
            raw = self._head_file.read_text(encoding="ascii")
            number, digest = raw.split()
            return Head(number=int(number), hash=bytes.fromhex(digest))
        except FileNotFoundError:
            return Head()
        except (ValueError, OSError) as error:
            raise UnhealthyError(
                f"{self._head_file} can't be read ({error}): put the copy from a backup there"
            ) from error

    def _note(self, head: Head) -> None:
        partial = self._head_file.with_suffix(".new")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{head.number} {head.hash.hex()}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.replace(self._head_file)


def _entry(row: Any) -> Entry:
    return Entry(
        number=row.number, ts_ms=row.ts_ms, actor=row.actor, action=row.action, subject=row.subject,
        outcome=row.outcome, detail=row.detail, cause=row.cause or b"", hash=row.hash,
    )
