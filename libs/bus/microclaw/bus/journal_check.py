"""Is a journal whole? And what can be saved of one that is not.

`check` reads every row; it needs no lock and may run beside the broker (its own read-only connection, short reads).
`repair` writes what is good into a new journal and says what is lost, row by row; the broker must be down.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from microclaw.bus.envelope import decode
from microclaw.bus.errors import EnvelopeError
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import JournalError, NewRow

#: Rows read at once, so that no reader holds the write-ahead log down for long.
PAGE_ROWS = 500
#: Findings reported, at most.
FINDINGS_MAX = 100

Progress = Callable[[float], None]


def open_read_only(path: Path) -> sqlite3.Connection:
    """A reader beside the broker, or of a journal that lies still."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=5)


def check(path: Path, progress: Progress = lambda _share: None) -> list[str]:
    """Everything that is wrong, one line each; [] = nothing."""
    findings: list[str] = []
    try:
        db = open_read_only(path)
        try:
            findings += [f"file: {line}" for (line,) in db.execute("PRAGMA quick_check(20)") if line != "ok"]
            findings += _rows(db, progress)
            findings += _sessions(db)
            findings += _places(db)
            findings += _groups(db)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        findings.append(f"file: {error}: `microclaw bus repair` saves what can be read")
    return findings[:FINDINGS_MAX]


def _rows(db: sqlite3.Connection, progress: Progress) -> Iterator[str]:
    last = db.execute("SELECT max(offset) FROM messages").fetchone()[0] or 0
    after = 0
    while True:
        rows = db.execute(
            "SELECT offset, id, crc, body FROM messages WHERE offset > ? ORDER BY offset LIMIT ?", (after, PAGE_ROWS)
        ).fetchall()
        if not rows:
            return
        for offset, message_id, crc, body in rows:
            if why := damage(message_id, crc, body):
                yield f"message {offset} ({bytes(message_id).hex()}): {why}"
        after = rows[-1][0]
        progress(after / last)


def damage(message_id: bytes, crc: int, body: bytes) -> str:
    """What is wrong with a row, "" = nothing."""
    if zlib.crc32(body, zlib.crc32(message_id)) != crc:
        return "its checksum is wrong"
    try:
        envelope = decode(body)
    except EnvelopeError as error:
        return str(error)
    return "" if envelope.message_id == message_id else "its envelope has another id"


def _sessions(db: sqlite3.Connection) -> Iterator[str]:
    query = (
        "SELECT s.name, s.base_seq, count(*), min(m.seq), max(m.seq) FROM messages m"
        " JOIN sessions s ON s.no = m.session GROUP BY m.session"
        " HAVING max(m.seq) - max(s.base_seq, min(m.seq) - 1) > count(*)"
    )
    for name, base, count, low, high in db.execute(query):
        yield f"session {name}: {count} messages between {max(base + 1, low)} and {high}, some are missing"


def _places(db: sqlite3.Connection) -> Iterator[str]:
    """Does the index over places say what the messages say?"""
    placed = db.execute("SELECT coalesce(max(value), 0) FROM meta WHERE key = 'placed'").fetchone()[0]
    query = (
        "SELECT m.offset FROM messages m LEFT JOIN places p ON p.session = m.session AND p.seq = m.seq"
        " WHERE (m.offset <= ? OR p.offset IS NOT NULL) AND p.offset IS NOT m.offset"
        " UNION SELECT p.offset FROM places p LEFT JOIN messages m USING (offset) WHERE m.offset IS NULL LIMIT ?"
    )
    for (offset,) in db.execute(query, (placed, FINDINGS_MAX)):
        yield f"message {offset} is not where the index over places says: `microclaw bus repair` makes it anew"


def _groups(db: sqlite3.Connection) -> Iterator[str]:
    query = "SELECT g.name, p.offset FROM parked p JOIN groups g ON g.no = p.grp LEFT JOIN messages m USING (offset)" \
            " WHERE m.offset IS NULL"
    for name, offset in db.execute(query):
        yield f"group {name} waits for message {offset}, which is gone"


def repair(path: Path, progress: Progress = lambda _share: None) -> tuple[list[str], Path]:
    """Save what is good. The damaged journal is kept beside it. Returns (what is lost, where the damaged one is).

    The new journal has a new epoch, so that whoever replays is told; consumer groups keep their places.

    :raises JournalError: the broker runs, or nothing can be read at all.
    """
    fresh = path.with_suffix(".repaired.db")
    for leftover in (fresh, *_beside(fresh)):
        leftover.unlink(missing_ok=True)
    lost: list[str] = []
    target = Journal(fresh)
    held = Journal.hold(path)
    try:
        source = sqlite3.connect(path, isolation_level=None)
        try:
            _save(source, target, lost, progress)
        finally:
            source.close()
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{path.name} can't be read at all ({error}): restore a backup") from error
    finally:
        target.close()
        held.close()
    kept = path.with_suffix(".damaged.db")
    for number in range(1, 1000):
        if not kept.exists():
            break
        kept = path.with_suffix(f".damaged-{number}.db")
    for suffix in ("", "-wal", "-shm"):
        beside = Path(f"{path}{suffix}")
        if beside.exists():
            beside.rename(f"{kept}{suffix}")
    for suffix in ("", "-wal", "-shm"):
        beside = Path(f"{fresh}{suffix}")
        if beside.exists():
            beside.rename(f"{path}{suffix}")
    return lost, kept


def _beside(path: Path) -> list[Path]:
    return [Path(f"{path}{suffix}") for suffix in ("-wal", "-shm")]


def _save(source: sqlite3.Connection, target: Journal, lost: list[str], progress: Progress) -> None:
    sessions = dict(source.execute("SELECT no, name FROM sessions"))
    bases = dict(source.execute("SELECT no, base_seq FROM sessions"))
    kinds = dict(source.execute("SELECT no, name FROM kinds"))
    target.begin()
    session_no = {no: target.add_session(name) for no, name in sessions.items()}
    for no, base in bases.items():
        target.set_base_seq(session_no[no], base)
    kind_no = {no: target.add_kind(name) for no, name in kinds.items()}
    last = source.execute("SELECT max(offset) FROM messages").fetchone()[0] or 0
    for offset, row in _readable(source, last, lost):
        message_id, session, seq, kind, stored_ms, crc, body, not_before, expires = row
        if why := damage(message_id, crc, body):
            lost.append(f"message {offset} of {sessions.get(session, '?')} (seq {seq}): {why}")
            continue
        new = NewRow(message_id, body, "", "", offset, session_no[session], seq, kind_no[kind], not_before, expires)
        if not target.insert([new], stored_ms):
            lost.append(f"message {offset} of {sessions[session]} (seq {seq}): its id is taken")
        progress(offset / last)
    for no, name, floor, spec in source.execute("SELECT no, name, floor, spec FROM groups"):
        group = target.save_group(name, floor, spec)
        settled = [offset for (offset,) in source.execute("SELECT offset FROM settled WHERE grp = ?", (no,))]
        target.settle(group, floor, settled, sweep=False)
        for table in ("parked", "dead"):
            rows = source.execute(f"SELECT * FROM {table} WHERE grp = ?", (no,))  # noqa: S608 - a name above
            target.copy_aside(table, group, (row for row in rows if target.stored_ms(row[1]) is not None))
    for handle, offset in source.execute("SELECT handle, offset FROM blobs"):
        if target.stored_ms(offset) is not None:
            target.refer(handle, offset)
    # What is lost at the end is given to no other message: groups are past it.
    if (known := _last_known(source)) > target.last_offset():
        target.begin_after(known)
    target.place_all()
    target.commit()


def _last_known(source: sqlite3.Connection) -> int:
    """The newest offset that the journal knows to be given."""
    return int(source.execute(
        "SELECT max(coalesce((SELECT max(offset) FROM messages), 0), coalesce((SELECT max(floor) FROM groups), 0),"
        " coalesce((SELECT max(offset) FROM settled), 0), coalesce((SELECT max(offset) FROM dead), 0),"
        " coalesce((SELECT value FROM meta WHERE key = 'last_expired'), 0))"
    ).fetchone()[0])


def _readable(source: sqlite3.Connection, last: int, lost: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Row by row, so that a page that can't be read costs only what stands on it."""
    query = ("SELECT id, session, seq, kind, stored_ms, crc, body, not_before_ms, expires_ms FROM messages"
             " WHERE offset = ?")
    first = source.execute("SELECT min(offset) FROM messages").fetchone()[0] or 1
    for offset in range(first, last + 1):
        try:
            row = source.execute(query, (offset,)).fetchone()
        except sqlite3.DatabaseError as error:
            lost.append(f"message {offset}: {error}")
            continue
        if row is not None:
            yield offset, row
