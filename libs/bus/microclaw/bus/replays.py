"""Whoever replays a session: answered at once while there is something, and else when there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from microclaw.bus.calls import Client
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import Damaged
from microclaw.bus.storing import Storage
from microclaw.bus.wire import Op

#: Messages in one replay answer, and their bytes, about.
REPLAY_MESSAGES_MAX = 1_000
REPLAY_BYTES_MAX = 1 << 20

#: Answers for a client that says nothing meanwhile; further ones wait until it does.
UNREAD_BYTES_MAX = 8 << 20

#: (routing id, operation): say this to a client.
Say = Callable[[bytes, list[Any]], None]


@dataclass(slots=True)
class _Waiting:
    """Somebody replays a session and has seen all of it."""

    client: Client
    rid: int
    session: str
    after: int
    limit: int
    deadline: float


class Replays:
    """The questions that wait for something new."""

    def __init__(self, journal: Journal, storage: Storage, say: Say, fold: Callable[[int], object]) -> None:
        """`fold` brings places of a session into the index."""
        self._journal = journal
        self._fold = fold
        self._storage = storage
        self._say = say
        self._waiting: list[_Waiting] = []
        #: As `seek` was called.
        self._seeking: list[tuple[Client, int, str, int, int]] = []

    def ask(
        self, client: Client, rid: int, session: str, after: int, limit: int, wait_ms: int, now: float
    ) -> None:
        """Answer with the next turn, or within `wait_ms`."""
        limit = min(limit, REPLAY_MESSAGES_MAX)
        self._waiting.append(_Waiting(client, rid, session, after, limit, now + wait_ms / 1000))

    def seek(self, client: Client, rid: int, session: str, since_ms: int, last: int) -> None:
        """Answer with the next turn: the seq after which there are the kept messages stored since then, the `last` so
        many at most."""
        self._seeking.append((client, rid, session, since_ms, last))

    def gone(self, client: Client) -> None:
        """Nobody waits there any more."""
        self._seeking = [sought for sought in self._seeking if sought[0] is not client]
        self._waiting = [waiting for waiting in self._waiting if waiting.client is not client]

    def turn(self, now: float) -> None:
        """Answer those for whom there is something, or whose time is over."""
        seeking, self._seeking = self._seeking, []
        for client, rid, session, since_ms, most in seeking:
            self._say(client.routing, [Op.SEEK, rid, self._place(session, since_ms, most)])
        if self._waiting:
            self._waiting = [
                w for w in self._waiting
                if w.client.unread_bytes > UNREAD_BYTES_MAX or not self._answer(w, final=w.deadline <= now)
            ]

    def deadlines(self) -> list[float]:
        """When `turn` has something to do, monotonic seconds."""
        return [w.deadline for w in self._waiting if w.client.unread_bytes <= UNREAD_BYTES_MAX]

    def _place(self, session: str, since_ms: int, most: int) -> int:
        number, last = self._storage.session(session)
        first = max(self._journal.base_seq(number), last - most)
        return self._storage.last_before(number, last, first, self._journal.offset_at(since_ms)) if since_ms else first

    def _answer(self, waiting: _Waiting, *, final: bool) -> bool:
        """Answer a replay if there is something to say (or it is `final`). True = answered."""
        number, last = self._storage.session(waiting.session)
        if waiting.after > last:
            why = f"{waiting.session} ends at {last}, not {waiting.after}"
            self._say(waiting.client.routing, [Op.REFUSED, waiting.rid, "epoch", why, 0])
            return True
        if waiting.after == last:
            if final:
                self._say(waiting.client.routing, [Op.REPLAY, waiting.rid, [], last])
            return final
        base = self._journal.base_seq(number)
        if waiting.after < base:
            self._say(waiting.client.routing, [Op.REFUSED, waiting.rid, "gap", str(base + 1), 0])
            return True
        if self._storage.should_fold(number, last, waiting.after):
            self._fold(number)
        try:
            rows = self._storage.replay(number, last, waiting.after, waiting.limit, REPLAY_BYTES_MAX)
        except Damaged as error:
            self._say(waiting.client.routing, [Op.REFUSED, waiting.rid, "damaged", str(error), 0])
            return True
        waiting.client.unread_bytes += sum(len(body) for _, body in rows)
        self._say(waiting.client.routing, [Op.REPLAY, waiting.rid, rows, last])
        return True
