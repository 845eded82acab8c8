"""Giving messages their place and bringing them into the journal: offsets, seqs, repeats, fences."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from microclaw.bus.calls import Call, Refusal
from microclaw.bus.envelope import decode
from microclaw.bus.errors import EnvelopeError
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow, Row
from microclaw.bus.tail import Tail

#: Messages whose places are known by heart alone, before the journal's index over places is brought up to date.
UNFOLDED_MAX = 32_768
#: Places written to that index in one transaction: how long a publisher may have to wait for it.
FOLD_PLACES_MAX = 4_096
#: Sessions remembered.
SESSIONS_MAX = 20_000

log = logging.getLogger("microclaw.broker")


class Session:
    """Where a session is."""

    __slots__ = ("last", "newest", "no")

    def __init__(self, no: int, last: int, newest: list[int]) -> None:
        self.no = no
        #: The last seq given.
        self.last = last
        #: The offsets of its newest messages, which the index over places does not have yet.
        self.newest = newest


@dataclass(frozen=True, slots=True)
class Folded:
    """What one transaction brought into the index over places."""

    #: Number of a session → how many of its newest messages, the oldest first.
    places: dict[int, int]
    #: All messages up to here are in the index now, None = that has not changed.
    placed: int | None


class Storage:
    """The journal and what is known of it by heart."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.published = 0
        self.duplicates = 0
        self._session_names: dict[int, str] = {}
        self._tail = Tail()
        self._sessions: dict[str, Session] = {}
        #: Number of a session → its `Session.newest`.
        self._unfolded: dict[int, list[int]] = defaultdict(list)
        #: Sessions of the pass over all of them that is under way, the next one last; and what it reaches in the end.
        self._pass: list[int] = []
        self._pass_end = 0
        self.reload()

    def reload(self) -> None:
        """Know only what is on disk: after a transaction that was undone."""
        #: Name → number.
        self.kinds = self._journal.kinds()
        self._sessions.clear()
        self._tail.clear()
        #: The newest offset given.
        self.last_offset = self._journal.last_offset()
        self._placed = self._journal.placed()
        self._unfolded.clear()
        self._pass.clear()
        for session, offset in self._journal.unfolded():
            self._unfolded[session].append(offset)

    # --- what is known ----------------------------------------------------------------------------------------------

    def session(self, name: str) -> tuple[int, int]:
        """(number, last seq) of a session, (0, 0) = there is none."""
        known = self._sessions.get(name) or self._on_disk(name)
        return (known.no, known.last) if known is not None else (0, 0)

    def rows(self, offsets: list[int], bytes_max: int) -> Sequence[Row | NewRow | None]:
        """These messages (None = not kept any more), up to the one with which they are `bytes_max` or more."""
        recent = self._tail.all(offsets)
        if recent is not None:
            ends = list(accumulate([len(row.body) for row in recent]))
            return recent if ends[-1] <= bytes_max else recent[:bisect_left(ends, bytes_max) + 1]
        found: list[Row | NewRow | None] = []
        for offset in offsets:
            row = self._tail.get(offset) or self._journal.row(offset)
            found.append(row)
            bytes_max -= len(row.body) if row is not None else 0
            if bytes_max <= 0:
                break
        return found

    def session_name(self, number: int) -> str:
        """The name of a session."""
        name = self._session_names.get(number)
        if name is None:
            name = self._session_names[number] = self._journal.session_name(number)
        return name

    def since(self, offset: int, limit: int) -> Iterable[Row | NewRow]:
        """Messages from this offset on."""
        return self._tail.after(offset, limit) or self._journal.scan(offset, limit)

    def should_fold(self, session: int, last: int, after: int) -> bool:
        """A replay from there on would need rows one by one: their places are not folded, and they are no longer in
        memory."""
        newest = self._unfolded.get(session)
        if not newest or after >= last:
            return False
        return self._tail.get(newest[max(after - last + len(newest), 0)]) is None

    def replay(self, session: int, last: int, after: int, limit: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """(seq, body) of a session's messages after this one, the `last` of which is known; up to the first damaged
        one, or until they are more than `bytes_max`.

        :raises Damaged: the very first of them is.
        """
        newest = self._unfolded.get(session, [])
        first_new = last - len(newest) + 1
        rows = self._journal.replay(session, after, limit, bytes_max) if after + 1 < first_new else []
        if rows and rows[-1][0] != first_new - 1:
            return rows
        if len(rows) == limit or not newest:
            return rows
        room = bytes_max - sum(len(body) for _, body in rows)
        start = max(after + 1 - first_new, 0)
        for seq, offset in enumerate(newest[start:start + limit - len(rows)], first_new + start):
            row = self._tail.get(offset) or self._journal.row(offset)
            if room < 0 or row is None:
                break
            if isinstance(row, Row) and row.damaged:
                if not rows:
                    raise row.damage()
                break
            rows.append((seq, row.body))
            room -= len(row.body)
        return rows

    def last_before(self, session: int, last: int, low: int, offset: int) -> int:
        """The last seq of a session, from `low` (which counts in any case) to `last`, whose message stands before this
        offset: of one session both rise together."""
        newest = self._unfolded.get(session, [])
        first_new = last - len(newest) + 1
        while low < last:
            middle = (low + last + 1) // 2
            at = newest[middle - first_new] if middle >= first_new else self._journal.offset_of(session, middle)
            if at < offset:
                low = middle
            else:
                last = middle - 1
        return low

    # --- giving places ----------------------------------------------------------------------------------------------

    def _on_disk(self, name: str) -> Session | None:
        found = self._journal.session(name)
        if found is None:
            return None
        no, folded = found
        newest = self._unfolded[no]
        return Session(no, folded + len(newest), newest)

    def _session(self, name: str) -> Session:
        """Where a session is, made on first use. Inside a transaction."""
        known = self._sessions.get(name)
        if known is None:
            known = self._on_disk(name)
            if known is None:
                no = self._journal.add_session(name)
                known = Session(no, 0, self._unfolded[no])
            self._sessions[name] = known
            self._session_names[known.no] = name
        return known

    def _kind(self, name: str) -> int:
        no = self.kinds.get(name)
        if no is None:
            no = self.kinds[name] = self._journal.add_kind(name)
        return no

    def _place(self, rows: list[NewRow]) -> None:
        """Give these their offsets and seqs."""
        offset = self.last_offset
        sessions, kinds = self._sessions, self.kinds
        for row in rows:
            session = sessions.get(row.session_name) or self._session(row.session_name)
            offset += 1
            session.last = row.seq = session.last + 1
            session.newest.append(offset)
            row.offset = offset
            row.session = session.no
            row.kind = kinds.get(row.kind_name) or self._kind(row.kind_name)

    def _unplace(self, rows: list[NewRow]) -> None:
        """They are not stored after all."""
        for row in rows:
            session = self._sessions[row.session_name]
            session.last -= 1
            session.newest.pop()

    def _placed_are(self, rows: list[NewRow]) -> None:
        """They are stored: keep them in mind."""
        if rows:
            self.last_offset = rows[-1].offset
            self.published += len(rows)
            self._tail.extend(rows)

    # --- storing ----------------------------------------------------------------------------------------------------

    def store(self, calls: list[Call], now_ms: int) -> None:
        """All calls at once; when an id was seen before, call by call. Each gets its `answer`, or its `refusals`.
        Inside a transaction.

        :raises NoSpace: the disk is full; undo the transaction and `reload`.
        """
        rows = [row for call in calls for row in call.rows]
        if self._plain(rows):
            self._place(rows)
            if self._journal.insert(rows, now_ms):
                for call in calls:
                    call.answer = [row.seq for row in call.rows]
                self._placed_are(rows)
                return
            self._unplace(rows)
        for call in calls:
            if call.each:
                call.answer = [self._store_all(call, call.rid + n, [row], now_ms)[0] for n, row in enumerate(call.rows)]
            else:
                answer = self._store_all(call, call.rid, call.rows, now_ms)
                call.answer = answer if call.rid not in call.refusals else None

    @staticmethod
    def _plain(rows: list[NewRow]) -> bool:
        """No id twice, nothing fenced: the calls can't be in each other's way."""
        return len({row.message_id for row in rows}) == len(rows) and not any(
            row.expected_seq is not None for row in rows
        )

    def _store_all(self, call: Call, rid: int, rows: list[NewRow], now_ms: int) -> list[int]:
        """These, all or none; what of them is there already is found. Their part of the answer."""
        try:
            known = self._repeats(rows)
        except Refusal as refusal:
            call.refusals = call.refusals | {rid: refusal}
            return [0]
        first: dict[bytes, NewRow] = {}
        for row in rows:
            if row.message_id not in known:
                first.setdefault(row.message_id, row)
        fresh = list(first.values())
        self._place(fresh)
        for row in fresh:
            if row.expected_seq is not None and row.seq != row.expected_seq + 1:
                self._unplace(fresh)
                call.refusals = call.refusals | {rid: Refusal(
                    "fenced", f"{row.session_name} is at {row.seq - 1}, not at {row.expected_seq}: somebody else wrote"
                )}
                return [0]
        if fresh and not self._journal.insert(fresh, now_ms):
            raise AssertionError("an id was free a moment ago and is taken now; the journal has another writer")
        self._placed_are(fresh)
        self.duplicates += len(rows) - len(fresh)
        return [row.seq if first.get(row.message_id) is row
                else -(first[row.message_id].seq if row.message_id in first else known[row.message_id])
                for row in rows]

    def _repeats(self, rows: list[NewRow]) -> dict[bytes, int]:
        """id → seq of those that are in the journal already.

        :raises Refusal: one of the ids is that of another message, there or in this very call.
        """
        known: dict[bytes, int] = {}
        bodies: dict[bytes, bytes] = {}
        for row in rows:
            if row.message_id not in bodies and (found := self._journal.find(row.message_id)):
                offset, known[row.message_id], bodies[row.message_id] = found
                if (stored := self._journal.row(offset)) is not None and stored.damaged:
                    # It was acknowledged once; whether the content is the same nobody can say any more.
                    log.error("a message that came again is damaged on disk", extra={"offset": offset})
                    bodies[row.message_id] = row.body
            if not same_message(bodies.setdefault(row.message_id, row.body), row.body):
                raise Refusal(
                    "id_conflict", f"message {row.message_id.hex()} is already there with another content"
                )
        return known

    # --- folding ----------------------------------------------------------------------------------------------------

    @property
    def unfolded(self) -> int:
        """Messages that may have their place in memory alone."""
        return self.last_offset - self._placed

    @property
    def folding(self) -> bool:
        """A pass over all sessions is under way."""
        return bool(self._pass)

    def fold(self, session: int = 0) -> Folded:
        """Bring some more of what is new into the index over places, of this session or (0) in a pass over all. Inside
        a transaction; give `folded` what this returns once it is committed.

        It is not done with every message: in the order of the journal each message's place is on another page, in the
        order of sessions and seqs many are on one."""
        if not session and not self._pass:
            self._pass = sorted((no for no, newest in self._unfolded.items() if newest), reverse=True)
            self._pass_end = self.last_offset
        room = FOLD_PLACES_MAX
        places: dict[int, int] = {}
        rows: list[tuple[int, int, int]] = []
        for no in [session] if session else reversed(self._pass):
            if not room:
                break
            newest = self._unfolded[no]
            first = self._known(no).last - len(newest) + 1
            some = newest[:room]
            rows += [(no, seq, offset) for seq, offset in enumerate(some, first)]
            places[no] = len(some)
            room -= len(some)
        placed = None if session or not room else self._pass_end
        self._journal.place(rows, placed)
        return Folded(places, placed)

    def _known(self, no: int) -> Session:
        """A session by its number."""
        name = self.session_name(no)
        known = self._sessions.get(name) or self._on_disk(name)
        if known is None:
            raise LookupError(f"session {no} has messages and no name")
        return known

    def folded(self, done: Folded) -> None:
        """That is on disk."""
        for no, count in done.places.items():
            del self._unfolded[no][:count]
        while self._pass and not self._has_old(self._pass[-1]):
            self._pass.pop()
        if done.placed is not None:
            self._pass.clear()
            self._placed = done.placed
            if max(len(self._unfolded), len(self._session_names)) > SESSIONS_MAX:
                self._forget()

    def _has_old(self, no: int) -> bool:
        """It has something that the pass must still reach."""
        newest = self._unfolded[no]
        return bool(newest) and newest[0] <= self._pass_end

    def _forget(self) -> None:
        """Know sessions by heart no more of which everything is on disk."""
        for name in [name for name, session in self._sessions.items() if not session.newest]:
            del self._sessions[name]
        for no in [no for no, newest in self._unfolded.items() if not newest]:
            del self._unfolded[no]
        self._session_names = {no: name for no, name in self._session_names.items() if no in self._unfolded}


def same_message(one: bytes, other: bytes) -> bool:
    """What makes two envelopes of one id the same message: session, source and payload (the kind is in it)."""
    if one == other:
        return True
    try:
        first, second = decode(one), decode(other)
    except EnvelopeError:
        return False
    return (first.session_id, first.source, bytes(first.payload)) == (
        second.session_id, second.source, bytes(second.payload))
