"""What the journal is made of: its tables, its rows, how SQLite is reached, and what can be wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from microclaw.bus.errors import BusError

#: Version of the tables below.
SCHEMA = 3

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE kinds (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE sessions (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, base_seq INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY, id BLOB NOT NULL, session INTEGER NOT NULL, seq INTEGER NOT NULL,
    kind INTEGER NOT NULL, stored_ms INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
    not_before_ms INTEGER, expires_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE TABLE places (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE groups (
    no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, floor INTEGER NOT NULL, spec BLOB NOT NULL
) STRICT;
CREATE TABLE settled (grp INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (grp, offset)) STRICT, WITHOUT ROWID;
CREATE TABLE parked (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, count INTEGER NOT NULL, due_ms INTEGER NOT NULL,
    first_error TEXT NOT NULL, last_error TEXT NOT NULL, PRIMARY KEY (grp, offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (handle TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (handle, offset)) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, count INTEGER NOT NULL, dead_ms INTEGER NOT NULL,
    reason TEXT NOT NULL, first_error TEXT NOT NULL, last_error TEXT NOT NULL, PRIMARY KEY (grp, offset)
) STRICT, WITHOUT ROWID;
"""

#: How a journal of an earlier version becomes one of this.
MIGRATIONS = {
    1: """
CREATE TABLE places (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO places SELECT session, seq, offset FROM messages ORDER BY session, seq;
INSERT OR REPLACE INTO meta SELECT 'placed', coalesce(max(offset), 0) FROM messages;
DROP INDEX messages_place;
ALTER TABLE messages DROP COLUMN digest;
""",
    # The tables are the same; but `places` may have some of what comes after `placed`.
    2: "",
}


class JournalError(BusError):
    """The journal cannot be used."""

    exit_code = 5


class Damaged(JournalError):
    """A stored message is not what was stored: its checksum does not match. `microclaw bus check` lists them all."""


class NoSpace(JournalError):
    """The disk is full: nothing was written. Free some space; publishers are told to wait."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stored message."""

    offset: int
    session: int
    seq: int
    kind: int
    body: bytes
    #: Unix ms, None = no such bound.
    not_before_ms: int | None = None
    expires_ms: int | None = None
    #: Its checksum does not match: the body is not what was stored.
    damaged: bool = False

    def damage(self) -> Damaged:
        """To be raised instead of giving the body to anybody."""
        return Damaged(f"message {self.seq} is damaged on disk; ask again after it, or `microclaw bus repair`")


class NewRow(msgspec.Struct, gc=False):
    """A message about to be stored. `offset`, `session`, `seq` and `kind` are given by `Storage`."""

    message_id: bytes
    body: bytes
    session_name: str
    kind_name: str
    offset: int = 0
    session: int = 0
    seq: int = 0
    kind: int = 0
    not_before_ms: int | None = None
    expires_ms: int | None = None
    #: Stored only if this is the session's last seq; None = whatever it is.
    expected_seq: int | None = None
    #: Blobs that it refers to.
    blobs: tuple[str, ...] = ()
    #: As `Row.damaged`: it has not been on a disk yet.
    damaged: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Parked:
    """A message of a group that waits for its next delivery."""

    offset: int
    count: int
    due_ms: int
    first_error: str
    last_error: str


@dataclass(frozen=True, slots=True)
class Driver:
    """How to reach SQLite: the standard library's in service, one with a faulty file system in tests."""

    connect: Callable[[Path], Any]
    constraint: type[Exception]
    full: Callable[[BaseException], bool]
    #: Root of its errors.
    error: type[Exception] = sqlite3.Error


def _stdlib_connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=256)
    connection.execute("PRAGMA locking_mode=NORMAL")
    return connection


#: What a full disk looks like; the second one while a database is opened.
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")

STDLIB = Driver(
    connect=_stdlib_connect,
    constraint=sqlite3.IntegrityError,
    full=lambda error: isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname in _FULL,
)
