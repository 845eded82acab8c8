"""The journal: every accepted envelope, and how far each consumer group is, in one SQLite file.

Written by the broker alone, from one thread. `synchronous=FULL` in WAL mode: what `commit` returned from is on disk.
The first pages of the WAL are written in advance ("prewarmed"), so a commit overwrites blocks that exist instead of
growing a file, which costs the file system a second journal commit.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from microclaw.bus.journal_reads import JournalReads
from microclaw.bus.journal_schema import (
    MIGRATIONS,
    SCHEMA,
    STDLIB,
    TABLES,
    Driver,
    JournalError,
    NewRow,
    NoSpace,
    Parked,
)
from microclaw.bus.mark import Mark

#: Rows in one INSERT: SQLite takes 32,766 parameters, and long statements are slow to prepare. A few are always one
#: statement.
INSERT_ROWS = (256, 128, 64, 32, *range(16, 0, -1))
#: Places in one INSERT.
PLACES_ROWS = 256
#: WAL pages (4 KiB) between checkpoints: 16 MB, where checkpoints are rare and each still short.
CHECKPOINT_PAGES = 4000
#: Journals up to this size are checked page by page at every start.
CHECKED_BYTES_MAX = 16 << 20
#: WAL bytes written in advance: what there is between two checkpoints, and what is written during one under load.
PREWARM_BYTES = 20 << 20
PREWARM_STEP_BYTES = 1 << 20


class Journal(JournalReads):
    """The file. Changes happen between `begin` and `commit`; everything read is what was committed or begun."""

    def __init__(self, path: Path, *, driver: Driver = STDLIB, synchronous: str = "FULL") -> None:
        """Open or make it.

        :raises JournalError: another broker has it, its version is unknown, or it is damaged.
        :raises NoSpace: the disk is too full even to open it.
        """
        self.path = path
        self._driver = driver
        self._lock = _lock(path.with_suffix(".lock"))
        # Not true to a power cut without FULL, so it would cry wolf.
        self._mark = Mark(path.with_suffix(".mark")) if synchronous == "FULL" else None
        self._newest = 0
        try:
            self._open(driver, synchronous)
        except BaseException as error:
            self._release()
            if driver.full(error):
                raise NoSpace from error
            if isinstance(error, (sqlite3.DatabaseError, driver.error)):
                raise JournalError(
                    f"{path.name} can't be read: {error}. `microclaw bus check` says what is lost"
                ) from error
            raise

    def _open(self, driver: Driver, synchronous: str) -> None:
        path = self.path
        self._synchronous = synchronous
        self._db = driver.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self.checkpoint_after(CHECKPOINT_PAGES)
        self._db.execute("PRAGMA cache_size=-5000")
        version = self._value("PRAGMA user_version")
        if version == 0:
            self._create()
        elif version in MIGRATIONS:
            self._migrate(version)
        elif version != SCHEMA:
            raise JournalError(f"{path.name} has version {version}, this program reads {SCHEMA}: use the program "
                               "that wrote it, or restore a backup")
        # At every start: a clean end deletes the log.
        self._prewarm()
        self.epoch: str = self._value("SELECT value FROM meta WHERE key = 'epoch'")
        self._inserts = {rows: _insert_sql(rows) for rows in INSERT_ROWS}
        self._examine()

    def _examine(self) -> None:
        """Is it whole? What can be seen in a bounded time; `microclaw bus check` looks at everything."""
        name = self.path.name
        if self._mark is not None and (told := self._mark.read(self.epoch)) > (last := self.last_offset()):
            raise JournalError(f"{name} ends at message {last}, but {told} were acknowledged: it was cut off or "
                               "damaged, or is an old copy; restore a newer one, or accept the loss with "
                               "`microclaw bus repair`")
        if self._value("PRAGMA page_count") * self._value("PRAGMA page_size") <= CHECKED_BYTES_MAX:
            found = self._value("PRAGMA quick_check(1)")
            if found != "ok":
                raise JournalError(f"{name} is damaged ({' '.join(found.split())}): `microclaw bus check` says what is "
                                   "lost, `microclaw bus repair` saves the rest")

    def _release(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        if self._mark is not None:
            self._mark.close()
        self._lock.close()

    @staticmethod
    def hold(path: Path) -> BinaryIO:
        """Keep every broker away from this journal until what is returned is closed. Raises JournalError."""
        return _lock(path.with_suffix(".lock"))

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._run(TABLES)
        self._db.execute("INSERT INTO meta VALUES ('epoch', ?)", (os.urandom(8).hex(),))
        self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._db.execute("COMMIT")

    def _migrate(self, version: int) -> None:
        """Bring an older journal up to date, all or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        for older in range(version, SCHEMA):
            self._run(MIGRATIONS[older])
        self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._db.execute("COMMIT")

    def _run(self, script: str) -> None:
        for statement in script.split(";"):
            if statement.strip():
                self._db.execute(statement)

    def _prewarm(self) -> None:
        """Let the write-ahead log be as long as it gets, if it is not: one blob written again and again, so that the
        file itself hardly grows (random: SQLite does not write what did not change). Nothing here is worth a sync."""
        wal = Path(f"{self.path}-wal")
        if wal.exists() and wal.stat().st_size >= PREWARM_BYTES:
            return
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._db.execute("PRAGMA synchronous=OFF")
        try:
            # Of one that was killed at it.
            self._write("DROP TABLE IF EXISTS prewarm")
            self._write("CREATE TABLE prewarm (filling BLOB)")
            self._write("INSERT INTO prewarm VALUES (zeroblob(?))", (PREWARM_STEP_BYTES,))
            for _ in range(PREWARM_BYTES // PREWARM_STEP_BYTES):
                self._write("UPDATE prewarm SET filling = randomblob(?)", (PREWARM_STEP_BYTES,))
            self._write("DROP TABLE prewarm")
        finally:
            self._db.execute(f"PRAGMA synchronous={self._synchronous}")
            self.checkpoint_after(self._checkpoint_pages)
        self.checkpoint("RESTART")

    # --- writing --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable. :raises NoSpace: and the transaction is undone."""
        self._write("COMMIT")
        if self._newest and self._mark is not None:
            self._mark.write(self.epoch, self._newest)
        self._newest = 0

    def rollback(self) -> None:
        """Undo it."""
        self._newest = 0
        if self._in_transaction():
            self._db.execute("ROLLBACK")

    def _in_transaction(self) -> bool:
        inside = self._db.in_transaction
        return bool(inside() if callable(inside) else inside)

    def _write(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        try:
            self._db.execute(sql, parameters)
        except Exception as error:
            if self._driver.full(error):
                self.rollback()
                raise NoSpace from error
            raise

    def insert(self, rows: Sequence[NewRow], stored_ms: int) -> bool:
        """Store messages. False = one of their ids is already there, and then none of them was stored."""
        done = 0
        crc32 = zlib.crc32
        try:
            while done < len(rows):
                size = next(size for size in INSERT_ROWS if size <= len(rows) - done)
                values: list[Any] = []
                seldom: list[NewRow] = []
                for row in rows[done:done + size]:
                    message_id, body = row.message_id, row.body
                    # sqlite3 asks its adapter registry about every `bytes` (and None), which costs more than a copy.
                    values += (row.offset, bytearray(message_id), row.session, row.seq, row.kind, stored_ms,
                               crc32(body, crc32(message_id)), bytearray(body))
                    if row.blobs or row.not_before_ms is not None or row.expires_ms is not None:
                        seldom.append(row)
                self._write(self._inserts[size], values)
                for row in seldom:
                    self._insert_seldom(row)
                done += size
        except self._driver.constraint:
            if done:
                self._write(
                    "DELETE FROM messages WHERE offset BETWEEN ? AND ?", (rows[0].offset, rows[done - 1].offset)
                )
            if any(row.blobs for row in rows):
                self._write("DELETE FROM blobs WHERE offset >= ?", (rows[0].offset,))
            return False
        if rows:
            self._newest = rows[-1].offset
        return True

    def _insert_seldom(self, row: NewRow) -> None:
        """What few messages have."""
        if row.not_before_ms is not None or row.expires_ms is not None:
            self._write("UPDATE messages SET not_before_ms = ?, expires_ms = ? WHERE offset = ?",
                        (row.not_before_ms, row.expires_ms, row.offset))
        for handle in row.blobs:
            self.refer(handle, row.offset)

    def refer(self, handle: str, offset: int) -> None:
        """A message refers to a blob."""
        self._write("INSERT INTO blobs VALUES (?, ?)", (handle, offset))

    def begin_after(self, offset: int) -> None:
        """No message is given this offset again, or an earlier one, whatever is deleted (inside a transaction)."""
        # What was set aside long ago is deleted after what is newer.
        self._write("INSERT OR REPLACE INTO meta VALUES ('last_expired', ?)", (max(offset, self._last_expired()),))

    def place(self, places: Sequence[tuple[int, int, int]], placed: int | None) -> None:
        """Put these (session, seq, offset) into the index over places (inside a transaction), best in their order. All
        messages up to `placed` have theirs there then; None = no more than before."""
        for start in range(0, len(places), PLACES_ROWS):
            some = places[start:start + PLACES_ROWS]
            self._write(_places_sql(len(some)), tuple(itertools.chain.from_iterable(some)))
        if placed is not None:
            self._write("INSERT OR REPLACE INTO meta VALUES ('placed', ?)", (placed,))

    def place_all(self) -> None:
        """Make the index over places of all messages at once (for a repair; inside a transaction)."""
        self._write("INSERT INTO places SELECT session, seq, offset FROM messages ORDER BY session, seq")
        self._write("INSERT OR REPLACE INTO meta VALUES ('placed', ?)", (self.last_offset(),))

    def add_kind(self, name: str) -> int:
        """The number of a kind, made on first use (inside a transaction)."""
        self._write("INSERT INTO kinds (name) VALUES (?)", (name,))
        return int(self._value("SELECT no FROM kinds WHERE name = ?", (name,)))

    def add_session(self, name: str) -> int:
        """The number of a session, made on first use (inside a transaction)."""
        self._write("INSERT INTO sessions (name) VALUES (?)", (name,))
        return int(self._value("SELECT no FROM sessions WHERE name = ?", (name,)))

    def save_group(self, name: str, floor: int, spec: bytes) -> int:
        """Make a group or change what it wants; an existing one keeps its place. Returns its number."""
        self._write(
            "INSERT INTO groups (name, floor, spec) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET spec = excluded.spec",
            (name, floor, spec),
        )
        return int(self._value("SELECT no FROM groups WHERE name = ?", (name,)))

    def settle(self, group: int, floor: int, beyond: Iterable[int], *, sweep: bool) -> None:
        """The group is done with all up to `floor`, and with these after it. `sweep`: forget rows below the floor."""
        self._write("UPDATE groups SET floor = ? WHERE no = ?", (floor, group))
        for offset in beyond:
            self._write("INSERT OR IGNORE INTO settled VALUES (?, ?)", (group, offset))
        if sweep:
            self._write("DELETE FROM settled WHERE grp = ? AND offset <= ?", (group, floor))

    def park(self, group: int, parked: Parked) -> None:
        """Keep a message aside for its next delivery; the floor may pass it."""
        self._write(
            "INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?)",
            (group, parked.offset, parked.count, parked.due_ms, parked.first_error, parked.last_error),
        )

    def unpark(self, group: int, offset: int) -> None:
        """It is settled."""
        self._write("DELETE FROM parked WHERE grp = ? AND offset = ?", (group, offset))

    def bury(self, group: int, parked: Parked, reason: str, dead_ms: int) -> None:
        """To the dead letters."""
        self.unpark(group, parked.offset)
        self._write(
            "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?)",
            (group, parked.offset, parked.count, dead_ms, reason, parked.first_error, parked.last_error),
        )

    def exhume(self, group: int, offset: int) -> bool:
        """Take a dead letter off the list. False = there is none."""
        found = self._value("SELECT 1 FROM dead WHERE grp = ? AND offset = ?", (group, offset)) is not None
        self._write("DELETE FROM dead WHERE grp = ? AND offset = ?", (group, offset))
        return found

    def set_base_seq(self, session: int, base_seq: int) -> None:
        """The last `seq` of a session that is no longer kept (for a repair)."""
        self._write("UPDATE sessions SET base_seq = ? WHERE no = ?", (base_seq, session))

    def copy_aside(self, table: Literal["parked", "dead"], group: int, rows: Iterable[Sequence[Any]]) -> None:
        """Rows of another journal's table, for this group (for a repair)."""
        for row in rows:
            places = ", ".join("?" * len(row))
            self._write(f"INSERT INTO {table} VALUES ({places})", (group, *row[1:]))  # noqa: S608 - a table's name

    def drop_group(self, group: int) -> None:
        """Forget a group, its place and its dead letters."""
        for table in ("settled", "parked", "dead"):
            self._write(f"DELETE FROM {table} WHERE grp = ?", (group,))  # noqa: S608 - a table's name
        self._write("DELETE FROM groups WHERE no = ?", (group,))

    def compact(self) -> None:
        """Give unused space back to the file system; nothing else can be written meanwhile."""
        self._write("VACUUM")
        self.checkpoint("TRUNCATE")
        self._prewarm()

    def expire(self, before_ms: int, floor: int, limit: int) -> int:
        """Delete up to `limit` of the oldest messages stored before `before_ms` that every group is done with (up to
        `floor`) and the index over places has, but none that is parked or dead. Returns how many."""
        # The oldest stand first: whatever follows one that is young enough is not looked at, else each look at a large
        # journal with nothing to delete would read all of it.
        oldest = list(self._db.execute(
            "SELECT offset, session, seq, stored_ms FROM messages WHERE offset <= ?"
            " AND offset NOT IN (SELECT offset FROM parked UNION SELECT offset FROM dead) ORDER BY offset LIMIT ?",
            (min(floor, self.placed()), limit),
        ))
        rows = [row[:3] for row in itertools.takewhile(lambda row: row[3] < before_ms, oldest)]
        last: dict[int, int] = {}
        for offset, session, seq in rows:
            last[session] = max(seq, last.get(session, 0))
            self._write("DELETE FROM messages WHERE offset = ?", (offset,))
            self._write("DELETE FROM places WHERE session = ? AND seq = ?", (session, seq))
            if self._has_blobs:
                self._write("DELETE FROM blobs WHERE offset = ?", (offset,))
        if rows:
            self.begin_after(rows[-1][0])
        for session, seq in last.items():
            self._write("UPDATE sessions SET base_seq = max(base_seq, ?) WHERE no = ?", (seq, session))
        return len(rows)

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Bring the WAL into the file. :raises NoSpace: the file can't grow; the WAL keeps what it has."""
        try:
            list(self._db.execute(f"PRAGMA wal_checkpoint({mode})"))
        except Exception as error:
            if self._driver.full(error):
                raise NoSpace from error
            raise

    def copy_beside(self) -> None:
        """Bring what is in the WAL now into the file by a connection of its own: for another thread, while this one
        goes on. What is copied is synced with the WAL's last page only. :raises NoSpace: as `checkpoint`."""
        db = self._driver.connect(self.path)
        try:
            db.execute(f"PRAGMA synchronous={self._synchronous}")
            list(db.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        except Exception as error:
            if self._driver.full(error):
                raise NoSpace from error
            raise
        finally:
            db.close()

    def checkpoint_after(self, pages: int) -> None:
        """Let a commit that finds the WAL so long bring it into the file (`CHECKPOINT_PAGES` unless this is called)."""
        self._checkpoint_pages = pages
        self._db.execute(f"PRAGMA wal_autocheckpoint={pages}")

    def close(self) -> None:
        """Checkpoint and let go."""
        self._release()


def _insert_sql(rows: int) -> str:
    return f"INSERT INTO messages VALUES {','.join(['(?,?,?,?,?,?,?,?,NULL,NULL)'] * rows)}"  # noqa: S608 - only place holders


@functools.cache
def _places_sql(rows: int) -> str:
    return f"INSERT INTO places VALUES {','.join(['(?,?,?)'] * rows)}"  # noqa: S608 - only place holders


def _lock(path: Path) -> BinaryIO:
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalError(f"another broker has {path.stem}.db: stop it first (`microclaw status`)") from error
    return lock
