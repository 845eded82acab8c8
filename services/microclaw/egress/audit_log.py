"""The audit log on disk: chained rows in `egress.db`, and the chain's head in a file of its own.

Entries that come in the same moment share one commit. The head file is written after the commit, so it may be behind
by what a kill cut off, never ahead; a database that is behind the head file was cut, and the gap stays visible.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, insert, select

from microclaw.core.audit import Entry, Fault, Head, Verifier, chained
from microclaw.core.errors import UnhealthyError
from microclaw.egress.tables import audit

#: Rows read at once where the whole log is gone through.
PAGE_ROWS = 1000

log = logging.getLogger("microclaw.egress")


class AuditLog:
    """The log. One process, one event loop."""

    def __init__(
        self, engine: Engine, head_file: Path, *, clock_ms: Callable[[], int], clean: Callable[[str], str],
    ) -> None:
        """`clean` masks known secrets in every text before it is stored."""
        self._engine = engine
        self._head_file = head_file
        self._clock_ms = clock_ms
        self._clean = clean
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._writing = False
        #: What was found at start, for the owner; "" = nothing.
        self.trouble = ""
        self.head = self._find_head()

    async def record(
        self, actor: str, action: str, subject: str, outcome: str, detail: str = "", *, cause: bytes = b"",
    ) -> None:
        """Returns when the entry is on disk. An envelope (`cause`) that was recorded before is not recorded again."""
        entry = Entry(
            number=0, ts_ms=self._clock_ms(), actor=self._clean(actor), action=self._clean(action),
            subject=self._clean(subject), outcome=outcome, detail=self._clean(detail), cause=cause,
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)
        await done

    def entries(self, *, after: int = 0, limit: int = PAGE_ROWS) -> list[Entry]:
        """Entries with a greater number than `after`, oldest first."""
        query = select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
        with self._engine.begin() as db:
            return [_entry(row) for row in db.execute(query)]

    def tail(self, count: int) -> list[Entry]:
        """The newest entries, oldest first."""
        query = select(audit).order_by(audit.c.number.desc()).limit(count)
        with self._engine.begin() as db:
            return [_entry(row) for row in db.execute(query)][::-1]

    async def verify(self) -> tuple[Head, list[Fault]]:
        """Go through the whole chain. (its end, every fault.)"""
        verifier = Verifier(self._noted())
        for page in self._pages():
            for entry in page:
                verifier.take(entry)
            # A long log is read page by page, so that doors go on working.
            await asyncio.sleep(0)
        return verifier.finish()

    # --- inside -----------------------------------------------------------------------------------------------

    def _pages(self) -> Iterator[list[Entry]]:
        after = 0
        while page := self.entries(after=after):
            yield page
            after = page[-1].number

    def _write(self) -> None:
        batch, self._waiting, self._writing = self._waiting, [], False
        try:
            self._store([entry for entry, _ in batch])
        except Exception as error:
            # Who waits is told: nothing is allowed that could not be written down.
            log.exception("audit entries could not be written", extra={"count": len(batch)})
            for _, done in batch:
                if not done.done():
                    done.set_exception(UnhealthyError(f"the audit log can't be written ({type(error).__name__}): "
                                                      "look at the disk that holds egress.db"))
            return
        for _, done in batch:
            if not done.done():
                done.set_result(None)

    def _store(self, entries: list[Entry]) -> None:
        with self._engine.begin() as db:
            known: set[bytes] = set()
            if causes := [entry.cause for entry in entries if entry.cause]:
                known = set(db.execute(select(audit.c.cause).where(audit.c.cause.in_(causes))).scalars())
            fresh: list[Entry] = []
            for entry in entries:
                if entry.cause in known:
                    continue
                known |= {entry.cause} if entry.cause else set()
                fresh.append(entry)
            rows, head = chained(self.head, fresh)
            if not rows:
                return
            db.execute(insert(audit), [
                {**msgspec.structs.asdict(row), "cause": row.cause or None} for row in rows
            ])
        self.head = head
        self._note(head)

    def _find_head(self) -> Head:
        last = self.tail(1)
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
