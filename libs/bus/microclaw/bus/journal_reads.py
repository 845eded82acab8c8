"""What can be read out of the journal. Everything read is what was committed, or begun by the same connection."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from microclaw.bus.journal_schema import Parked, Row

_ROW = "offset, session, seq, kind, body, not_before_ms, expires_ms"
#: Rows of a replay taken from SQLite at once.
REPLAY_ROWS = 16


class JournalReads:
    """The reading half of `Journal`."""

    path: Path
    _db: Any

    def _value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        row = next(iter(self._db.execute(sql, parameters)), None)
        return None if row is None else row[0]

    def last_offset(self) -> int:
        """The newest message's offset ever given, 0 = none."""
        newest = int(self._value("SELECT max(offset) FROM messages") or 0)
        return max(newest, self._last_expired())

    def _last_expired(self) -> int:
        return int(self._value("SELECT value FROM meta WHERE key = 'last_expired'") or 0)

    def placed(self) -> int:
        """All messages up to this offset are in the index over places; of later ones it has some of each session's, the
        oldest first."""
        return int(self._value("SELECT value FROM meta WHERE key = 'placed'") or 0)

    def unfolded(self) -> Iterator[tuple[int, int]]:
        """(session, offset) of every message that the index over places does not have yet, oldest first."""
        yield from self._db.execute(
            "SELECT m.session, m.offset FROM messages m LEFT JOIN places p ON p.session = m.session AND p.seq = m.seq"
            " WHERE m.offset > ? AND p.offset IS NULL ORDER BY m.offset", (self.placed(),)
        )

    def first_offset(self) -> int:
        """The oldest kept message's offset, 0 = none."""
        return int(self._value("SELECT min(offset) FROM messages") or 0)

    def kinds(self) -> dict[str, int]:
        """All kinds by name."""
        return dict(self._db.execute("SELECT name, no FROM kinds"))

    def session(self, name: str) -> tuple[int, int] | None:
        """(number, last seq as far as the index over places reaches) of a session, None = unknown."""
        row = next(iter(self._db.execute("SELECT no, base_seq FROM sessions WHERE name = ?", (name,))), None)
        if row is None:
            return None
        last = self._value("SELECT max(seq) FROM places WHERE session = ?", (row[0],))
        return row[0], max(row[1], last or 0)

    def session_name(self, number: int) -> str:
        """The name of a session."""
        return str(self._value("SELECT name FROM sessions WHERE no = ?", (number,)))

    def base_seq(self, session: int) -> int:
        """The last `seq` of a session that retention has deleted, 0 = none. Parked and dead messages may be older."""
        return int(self._value("SELECT base_seq FROM sessions WHERE no = ?", (session,)) or 0)

    def find(self, message_id: bytes) -> tuple[int, int, bytes] | None:
        """(offset, seq, body) of a stored message, None = unknown. The body is not checked."""
        return next(iter(self._db.execute(
            "SELECT offset, seq, body FROM messages WHERE id = ?", (message_id,))), None)

    def offset_of(self, session: int, seq: int) -> int:
        """Where a message stands that the index over places has, 0 = it is not kept."""
        return int(self._value("SELECT offset FROM places WHERE session = ? AND seq = ?", (session, seq)) or 0)

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
        """(seq, body) of a session's messages after this one, as far as the index over places reaches, up to the first
        damaged one, or until they are more than `bytes_max`.

        :raises Damaged: the very first of them is.
        """
        rows: list[tuple[int, bytes]] = []
        crc32 = zlib.crc32
        cursor = self._db.execute(
            "SELECT p.seq, m.body, m.id, m.crc FROM places p CROSS JOIN messages m ON m.offset = p.offset"
            " WHERE p.session = ? AND p.seq > ? ORDER BY p.seq LIMIT ?",
            (session, after_seq, limit),
        )
        while bytes_max >= 0 and (found := list(itertools.islice(cursor, REPLAY_ROWS))):
            whole = [(seq, body) for seq, body, message_id, crc in found if crc32(body, crc32(message_id)) == crc]
            if len(whole) < len(found):
                bad = next(n for n, (_, body, message_id, crc) in enumerate(found)
                           if crc32(body, crc32(message_id)) != crc)
                if not rows and not bad:
                    raise Row(0, session, found[0][0], 0, b"").damage()
                return rows + whole[:bad]
            ends = list(itertools.accumulate([len(body) for _, body in whole]))
            # Of large ones a few are enough.
            rows += whole if ends[-1] <= bytes_max else whole[:bisect.bisect_right(ends, bytes_max) + 1]
            bytes_max -= ends[-1]
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
        """(name, last seq, messages that retention has not reached) of sessions whose name begins so, most recently
        used first; as far as the index over places reaches."""
        # A range, not LIKE: names may hold its wild cards, and the index serves a range. Each session's last place is
        # one look at the index; to count places would be to read it all.
        return list(self._db.execute(
            "SELECT s.name, coalesce(max(s.base_seq, p.seq), s.base_seq), coalesce(max(p.seq - s.base_seq, 0), 0)"
            " FROM sessions s LEFT JOIN places p ON p.session = s.no"
            " AND p.seq = (SELECT max(seq) FROM places WHERE session = s.no)"
            " WHERE s.name >= ? AND substr(s.name, 1, ?) = ? ORDER BY p.offset DESC LIMIT ?",
            (prefix, len(prefix), prefix, limit),
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
        low, high = self.first_offset(), self.last_offset() + 1
        while low < high:
            middle = (low + high) // 2
            stored = self._value("SELECT stored_ms FROM messages WHERE offset >= ? ORDER BY offset LIMIT 1", (middle,))
            if stored is None or stored >= stored_ms:
                high = middle
            else:
                low = middle + 1
        return max(low, 1)

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
        """How many there are of each, for `bus info`. Messages are counted by their offsets, which have no gaps after
        what retention has deleted (but where a repair could not save one)."""
        expired = self._last_expired()
        kept = int(self._value("SELECT count(*) FROM messages WHERE offset <= ?", (expired,)))
        first = int(self._value("SELECT min(offset) FROM messages WHERE offset > ?", (expired,)) or 0)
        tables = ("sessions", "groups", "dead")
        return {"messages": kept + (self.last_offset() - first + 1 if first else 0)} | {
            table: int(self._value(f"SELECT count(*) FROM {table}")) for table in tables  # noqa: S608 - names above
        }
