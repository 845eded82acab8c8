"""Giving messages their place and bringing them into the journal: offsets, seqs, repeats, fences."""

from __future__ import annotations

from collections.abc import Iterable

from microclaw.bus.calls import Call, Refusal
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow, Row
from microclaw.bus.tail import Tail


class Storage:
    """The journal and what is known of it by heart."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.published = 0
        self.duplicates = 0
        self._session_names: dict[int, str] = {}
        self._tail = Tail()
        self._sessions: dict[str, tuple[int, int]] = {}
        self.reload()

    def reload(self) -> None:
        """Know only what is on disk: after a transaction that was undone."""
        self._kinds = self._journal.kinds()
        self._sessions.clear()
        self._tail.clear()
        #: The newest offset given.
        self.last_offset = self._journal.last_offset()

    def kind_names(self) -> dict[int, str]:
        """The kinds by number."""
        return {no: name for name, no in self._kinds.items()}

    def session(self, name: str) -> tuple[int, int]:
        """(number, last seq) of a session, (0, 0) = there is none."""
        return self._sessions.get(name) or self._journal.session(name) or (0, 0)

    def row(self, offset: int) -> Row | NewRow | None:
        """One message, None = not kept."""
        return self._tail.get(offset) or self._journal.row(offset)

    def session_name(self, number: int) -> str:
        """The name of a session."""
        name = self._session_names.get(number)
        if name is None:
            name = self._session_names[number] = self._journal.session_name(number)
        return name

    def since(self, offset: int, limit: int) -> Iterable[Row | NewRow]:
        """Messages from this offset on."""
        return self._tail.after(offset, limit) or self._journal.scan(offset, limit)

    def _session(self, name: str) -> tuple[int, int]:
        """(number, last seq), made on first use. Inside a transaction."""
        known = self._sessions.get(name)
        if known is None:
            known = self._journal.session(name) or (self._journal.add_session(name), 0)
            self._sessions[name] = known
            self._session_names[known[0]] = name
        return known

    def _kind(self, name: str) -> int:
        no = self._kinds.get(name)
        if no is None:
            no = self._kinds[name] = self._journal.add_kind(name)
        return no

    def _place(self, calls: list[Call]) -> list[NewRow]:
        """Give the calls' messages their offsets and seqs."""
        rows: list[NewRow] = []
        last: dict[str, tuple[int, int]] = {}
        offset = self.last_offset
        known, kinds = self._sessions, self._kinds
        for call in calls:
            for row, (session, kind, _) in zip(call.rows, call.names, strict=True):
                no, seq = last.get(session) or known.get(session) or self._session(session)
                offset += 1
                seq += 1
                last[session] = (no, seq)
                row.offset = offset
                row.session = no
                row.seq = seq
                row.kind = kinds.get(kind) or self._kind(kind)
                rows.append(row)
        return rows

    def _placed(self, rows: list[NewRow], calls: list[Call]) -> None:
        """They are stored: remember the last seqs, keep the tail."""
        for call in calls:
            for row, (session, _, _) in zip(call.rows, call.names, strict=True):
                self._sessions[session] = (row.session, row.seq)
        if rows:
            self.last_offset = rows[-1].offset
            self._tail.extend(rows)

    def store(self, calls: list[Call], now_ms: int) -> None:
        """All calls at once; when an id was seen before, call by call. Each gets its `answer`, or its `refusal`. Inside
        a transaction.

        :raises NoSpace: the disk is full; undo the transaction and `reload`.
        """
        rows = self._place(calls)
        if self._plain(rows, calls) and self._journal.insert(rows, now_ms):
            for call in calls:
                call.answer = [[row.seq, False] for row in call.rows]
            self._placed(rows, calls)
            self.published += len(rows)
            return
        for call in calls:
            self._store_one(call, now_ms)

    @staticmethod
    def _plain(rows: list[NewRow], calls: list[Call]) -> bool:
        """No id twice, nothing fenced: the calls can't be in each other's way."""
        return len({row.message_id for row in rows}) == len(rows) and not any(
            expected is not None for call in calls for _, _, expected in call.names
        )

    def _store_one(self, call: Call, now_ms: int) -> None:
        known: dict[bytes, tuple[int, bytes]] = {}
        fresh, names = [], []
        for row, name in zip(call.rows, call.names, strict=True):
            found = self._journal.find(row.message_id) or known.get(row.message_id)
            if found is None:
                known[row.message_id] = (0, row.digest)
                fresh.append(row)
                names.append(name)
            elif bytes(found[1]) != row.digest:
                call.refusal = Refusal(
                    "id_conflict", f"message {row.message_id.hex()} is already there with another content"
                )
                return
            else:
                known.setdefault(row.message_id, found)
        part = Call(call.client, call.rid, fresh, names)
        rows = self._place([part])
        for row, (session, _, expected) in zip(fresh, names, strict=True):
            if expected is not None and row.seq != expected + 1:
                call.refusal = Refusal(
                    "fenced", f"{session} is at {row.seq - 1}, not at {expected}: somebody else wrote"
                )
                return
        if rows and not self._journal.insert(rows, now_ms):
            raise AssertionError("an id was free a moment ago and is taken now; the journal has another writer")
        self._placed(rows, [part])
        mine = {row.message_id: row.seq for row in fresh}
        call.answer = []
        for row in call.rows:
            if row.message_id in mine:
                call.answer.append([mine.pop(row.message_id), False])
            else:
                seq = self._journal.find(row.message_id)
                call.answer.append([seq[0] if seq else 0, True])
        self.published += len(fresh)
        self.duplicates += len(call.rows) - len(fresh)
