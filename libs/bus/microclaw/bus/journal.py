"""The journal: every accepted envelope, and how far each consumer group is, in one SQLite file.

Written by the broker alone, from one thread. `synchronous=FULL` in WAL mode: what `commit` returned from is on disk.
The first pages of the WAL are written in advance ("prewarmed"), so a commit overwrites blocks that exist instead of
growing a file, which costs the file system a second journal commit.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from microclaw.bus.journal_schema import (
    SCHEMA,
    STDLIB,
    TABLES,
    Damaged,
    Driver,
    JournalError,
    NewRow,
    NoSpace,
    Parked,
    Row,
)
from microclaw.bus.mark import Mark

#: Rows in one INSERT: SQLite takes 32,766 parameters, and long statements are slow to prepare.
INSERT_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
#: WAL pages (4 KiB) between checkpoints: 16 MB, where checkpoints are rare and each still short.
CHECKPOINT_PAGES = 4000
#: Journals up to this size are checked page by page at every start.
CHECKED_BYTES_MAX = 16 << 20
#: WAL bytes written in advance: a little more than there are between two checkpoints.
PREWARM_BYTES = 17 << 20
PREWARM_STEP_BYTES = 1 << 20

_ROW = "offset, session, seq, kind, body, not_before_ms, expires_ms"


class Journal:
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
        self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._db.execute("PRAGMA cache_size=-8000")
        version = self._value("PRAGMA user_version")
        if version == 0:
            self._create()
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

    def _value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        row = next(iter(self._db.execute(sql, parameters)), None)
        return None if row is None else row[0]

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            if statement.strip():
                self._db.execute(statement)
        self._db.execute("INSERT INTO meta VALUES ('epoch', ?)", (os.urandom(8).hex(),))
        self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._db.execute("COMMIT")

    def _prewarm(self) -> None:
        """Let the write-ahead log be as long as it gets, if it is not: one blob written again and again, so that the
        file itself hardly grows (random: SQLite does not write what did not change). Nothing here is worth a sync."""
        wal = Path(f"{self.path}-wal")
        if wal.exists() and wal.stat().st_size >= PREWARM_BYTES:
            return
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE prewarm (filling BLOB)")
        self._db.execute("INSERT INTO prewarm VALUES (zeroblob(?))", (PREWARM_STEP_BYTES,))
        for _ in range(PREWARM_BYTES // PREWARM_STEP_BYTES):
            self._db.execute("UPDATE prewarm SET filling = randomblob(?)", (PREWARM_STEP_BYTES,))
        self._db.execute("DROP TABLE prewarm")
        self._db.execute(f"PRAGMA synchronous={self._synchronous}")
        self.checkpoint("RESTART")
        self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

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
        try:
            while done < len(rows):
                size = next(size for size in INSERT_ROWS if size <= len(rows) - done)
                values: list[Any] = []
                timed = False
                for row in rows[done:done + size]:
                    crc = zlib.crc32(row.body, zlib.crc32(row.message_id))
                    # sqlite3 asks its adapter registry about every `bytes` (and None), which costs more than a copy.
                    values += (row.offset, bytearray(row.message_id), row.session, row.seq, row.kind, stored_ms,
                               bytearray(row.digest), crc, bytearray(row.body))
                    for handle in row.blobs:
                        self._write("INSERT INTO blobs VALUES (?, ?)", (handle, row.offset))
                    timed = timed or row.not_before_ms is not None or row.expires_ms is not None
                self._write(self._inserts[size], values)
                if timed:
                    for row in rows[done:done + size]:
                        self._write("UPDATE messages SET not_before_ms = ?, expires_ms = ? WHERE offset = ?",
                                    (row.not_before_ms, row.expires_ms, row.offset))
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
        `floor`), but none that is parked or dead. Returns how many."""
        rows = list(self._db.execute(
            "SELECT offset, session, seq FROM messages WHERE offset <= ? AND stored_ms < ?"
            " AND offset NOT IN (SELECT offset FROM parked UNION SELECT offset FROM dead) ORDER BY offset LIMIT ?",
            (floor, before_ms, limit),
        ))
        last: dict[int, int] = {}
        for offset, session, seq in rows:
            last[session] = max(seq, last.get(session, 0))
            self._write("DELETE FROM messages WHERE offset = ?", (offset,))
            if self._has_blobs:
                self._write("DELETE FROM blobs WHERE offset = ?", (offset,))
        if rows:
            self._write("INSERT OR REPLACE INTO meta VALUES ('last_expired', ?)", (rows[-1][0],))
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

    # --- reading --------------------------------------------------------------------------------------------------

    def last_offset(self) -> int:
        """The newest message's offset ever given, 0 = none."""
        newest = int(self._value("SELECT max(offset) FROM messages") or 0)
        return max(newest, int(self._value("SELECT value FROM meta WHERE key = 'last_expired'") or 0))

    def first_offset(self) -> int:
        """The oldest kept message's offset, 0 = none."""
        return int(self._value("SELECT min(offset) FROM messages") or 0)

    def kinds(self) -> dict[str, int]:
        """All kinds by name."""
        return dict(self._db.execute("SELECT name, no FROM kinds"))

    def session(self, name: str) -> tuple[int, int] | None:
        """(number, last seq) of a session, None = unknown."""
        row = next(iter(self._db.execute("SELECT no, base_seq FROM sessions WHERE name = ?", (name,))), None)
        if row is None:
            return None
        last = self._value("SELECT max(seq) FROM messages WHERE session = ?", (row[0],))
        return row[0], max(row[1], last or 0)

    def session_name(self, number: int) -> str:
        """The name of a session."""
        return str(self._value("SELECT name FROM sessions WHERE no = ?", (number,)))

    def base_seq(self, session: int) -> int:
        """The last `seq` of a session that retention has deleted, 0 = none. Parked and dead messages may be older."""
        return int(self._value("SELECT base_seq FROM sessions WHERE no = ?", (session,)) or 0)

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        """(seq, digest) of a stored message, None = unknown."""
        return next(iter(self._db.execute("SELECT seq, digest FROM messages WHERE id = ?", (message_id,))), None)

    def scan(self, offset: int, limit: int) -> Iterator[Row]:
        """Messages from this offset on."""
        for row in self._db.execute(
            f"SELECT {_ROW} FROM messages WHERE offset >= ? ORDER BY offset LIMIT ?",  # noqa: S608 - column names
            (offset, limit),
        ):
            yield Row(*row)

    def row(self, offset: int) -> Row | None:
        """One message, None = not kept."""
        row = next(iter(self._db.execute(
            f"SELECT {_ROW}, id, crc FROM messages WHERE offset = ?", (offset,))), None)  # noqa: S608 - column names
        if row is None:
            return None
        found = Row(*row[:-2])
        if zlib.crc32(found.body, zlib.crc32(row[-2])) != row[-1]:
            return dataclasses.replace(found, damaged=True)
        return found

    def replay(self, session: int, after_seq: int, limit: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """(seq, body) of a session's messages after this one, up to the first damaged one, or until they are more than
        `bytes_max`.

        :raises Damaged: the very first of them is.
        """
        rows: list[tuple[int, bytes]] = []
        crc32 = zlib.crc32
        for seq, body, message_id, crc in self._db.execute(
            "SELECT seq, body, id, crc FROM messages WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?",
            (session, after_seq, limit),
        ):
            if crc32(body, crc32(message_id)) != crc:
                if not rows:
                    raise Damaged(f"message {seq} is damaged on disk; ask again after it, or `microclaw bus repair`")
                break
            rows.append((seq, body))
            bytes_max -= len(body)
            if bytes_max < 0:
                break
        return rows

    def groups(self) -> list[tuple[int, str, int, bytes]]:
        """(number, name, floor, spec) of every group."""
        return list(self._db.execute("SELECT no, name, floor, spec FROM groups ORDER BY no"))

    def settled(self, group: int) -> set[int]:
        """Offsets after its floor that the group is done with, dead letters included."""
        return {row[0] for row in self._db.execute(
            "SELECT offset FROM settled WHERE grp = ?1 UNION SELECT offset FROM dead"
            " WHERE grp = ?1 AND offset > (SELECT floor FROM groups WHERE no = ?1)", (group,)
        )}

    def parked(self, group: int) -> list[Parked]:
        """What waits for its next delivery, oldest first."""
        return [Parked(*row) for row in self._db.execute(
            "SELECT offset, count, due_ms, first_error, last_error FROM parked WHERE grp = ? ORDER BY offset", (group,)
        )]

    def dead(self, group: int, limit: int) -> list[tuple[Any, ...]]:
        """(offset, count, dead_ms, reason, first_error, last_error, body) of dead letters, newest first."""
        return list(self._db.execute(
            "SELECT d.offset, d.count, d.dead_ms, d.reason, d.first_error, d.last_error, m.body FROM dead d"
            " JOIN messages m ON m.offset = d.offset WHERE d.grp = ? ORDER BY d.dead_ms DESC, d.offset DESC LIMIT ?",
            (group, limit),
        ))

    def sessions(self, prefix: str, limit: int) -> list[tuple[str, int, int]]:
        """(name, last seq, kept) of sessions whose name begins so, most recently used first."""
        # A range, not LIKE: names may hold its wild cards, and the index serves a range.
        return list(self._db.execute(
            "SELECT s.name, max(s.base_seq, coalesce(max(m.seq), 0)), count(m.seq) FROM sessions s"
            " LEFT JOIN messages m ON m.session = s.no WHERE s.name >= ? AND substr(s.name, 1, ?) = ?"
            " GROUP BY s.no ORDER BY max(m.offset) DESC LIMIT ?", (prefix, len(prefix), prefix, limit),
        ))

    def dead_offsets(self, group: int) -> list[int]:
        """The offsets of a group's dead letters, oldest first."""
        return [row[0] for row in self._db.execute("SELECT offset FROM dead WHERE grp = ? ORDER BY offset", (group,))]

    def stored_ms(self, offset: int) -> int | None:
        """When a message was stored, None = not kept."""
        stored = self._value("SELECT stored_ms FROM messages WHERE offset = ?", (offset,))
        return None if stored is None else int(stored)

    def offset_at(self, stored_ms: int) -> int:
        """The first offset stored at or after this moment (stored times never fall, unless the clock was set back)."""
        found = self._value(
            "SELECT offset FROM messages WHERE stored_ms >= ? ORDER BY offset LIMIT 1", (stored_ms,)
        )
        return self.last_offset() + 1 if found is None else int(found)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file and of its write-ahead log."""
        wal = Path(f"{self.path}-wal")
        return self.path.stat().st_size, wal.stat().st_size if wal.exists() else 0

    @property
    def _has_blobs(self) -> bool:
        return self._value("SELECT 1 FROM blobs LIMIT 1") is not None

    def refers(self, handle: str) -> bool:
        """A kept message refers to this blob."""
        return self._value("SELECT 1 FROM blobs WHERE handle = ? LIMIT 1", (handle,)) is not None

    def counts(self) -> dict[str, int]:
        """Rows of each table, for `bus info`."""
        tables = ("messages", "sessions", "groups", "settled", "parked", "dead")
        return {table: int(self._value(f"SELECT count(*) FROM {table}")) for table in tables}  # noqa: S608 - names above

    def close(self) -> None:
        """Checkpoint and let go."""
        self._release()


def _insert_sql(rows: int) -> str:
    return f"INSERT INTO messages VALUES {','.join(['(?,?,?,?,?,?,?,?,?,NULL,NULL)'] * rows)}"  # noqa: S608 - only place holders


def _lock(path: Path) -> BinaryIO:
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalError(f"another broker has {path.stem}.db: stop it first (`microclaw status`)") from error
    return lock
