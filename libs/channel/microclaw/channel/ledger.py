"""The delivery ledger: where each part of each reply stands, on disk before the platform hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection, Engine, Row, bindparam, delete, func, insert, select, update

from microclaw.channel.tables import parts
from microclaw.core.delivery import Part, PartState, step

#: How long a part that ended is remembered, ms: so long a message of ours is known for ours.
KEPT_MS = 90 * 24 * 3600 * 1000
DAY_MS = 24 * 3600 * 1000
ERROR_CHARS_MAX = 500

# Built once: making a statement costs more than running it.
_OF_REPLY = select(parts).where(parts.c.reply_id == bindparam("reply")).order_by(parts.c.number)
_ADD = insert(parts)
_CHANGE = update(parts).where(parts.c.reply_id == bindparam("reply"), parts.c.number == bindparam("place"))
_REWRITE = update(parts).where(parts.c.reply_id == bindparam("reply"), parts.c.number == bindparam("place"))
_OURS = select(parts.c.number).where(parts.c.chat == bindparam("chat"), parts.c.platform_id == bindparam("ours"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One part as it stands."""

    reply_id: bytes
    number: int
    chat: str
    part: Part
    reply_to: str
    state: PartState
    attempts: int
    platform_id: str
    error: str
    changed_ms: int

    @property
    def key(self) -> str:
        """The part's own name, the same at every try: a nonce or Message-ID is made of it. 32 hexadecimal digits, `-`,
        its number."""
        return f"{self.reply_id.hex()}-{self.number}"


class Ledger:
    """The ledger in one connector's database."""

    def __init__(self, engine: Engine, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._clock_ms = clock_ms

    def of_reply(self, reply_id: bytes) -> list[Entry]:
        """The parts of a reply, in order; [] = it is not planned yet."""
        with self._engine.begin() as db:
            return [_entry(row) for row in db.execute(_OF_REPLY, {"reply": reply_id})]

    def plan(self, reply_id: bytes, chat: str, reply_to: str, planned: Sequence[Part]) -> list[Entry]:
        """Write down in which parts a reply goes out: once, so that after a crash they are the same."""
        now = self._clock_ms()
        with self._engine.begin() as db:
            if db.execute(_OF_REPLY, {"reply": reply_id}).first() is None and planned:
                db.execute(_ADD, [
                    {
                        "reply_id": reply_id, "number": number, "chat": chat, "body": msgspec.msgpack.encode(part),
                        "reply_to": reply_to if number == 0 else "", "state": PartState.PREPARED, "attempts": 0,
                        "platform_id": "", "error": "", "changed_ms": now,
                    }
                    for number, part in enumerate(planned)
                ])
        return self.of_reply(reply_id)

    def move(self, entry: Entry, state: PartState, *, platform_id: str = "", error: str = "") -> Entry:
        """Bring a part to its next state, on disk when this returns. Raises `core.delivery.IllegalStep`."""
        with self._engine.begin() as db:
            return self._move(db, entry, state, platform_id, error)

    def without_edit(self, entry: Entry) -> Entry:
        """A part that is on its way goes back, to be sent as a message of its own."""
        part = msgspec.structs.replace(entry.part, edits="")
        with self._engine.begin() as db:
            db.execute(_REWRITE, {
                "reply": entry.reply_id, "place": entry.number, "body": msgspec.msgpack.encode(part),
            })
            return self._move(db, replace(entry, part=part), PartState.PREPARED, "", "")

    def is_ours(self, chat: str, platform_id: str) -> bool:
        """Whether we sent the message that the platform calls so."""
        with self._engine.begin() as db:
            return bool(platform_id) and db.execute(_OURS, {"chat": chat, "ours": platform_id}).first() is not None

    def counts(self) -> dict[PartState, int]:
        """Parts under way, and those that ended within the last day."""
        recent = parts.c.changed_ms >= self._clock_ms() - DAY_MS
        open_states = [state for state in PartState if not state.is_final]
        with self._engine.begin() as db:
            rows = db.execute(
                select(parts.c.state, func.count()).where(parts.c.state.in_(open_states) | recent)
                .group_by(parts.c.state)
            ).all()
        return {PartState(state): int(count) for state, count in rows}

    def forget(self) -> None:
        """Drop what ended long ago."""
        final = [state for state in PartState if state.is_final]
        with self._engine.begin() as db:
            db.execute(
                delete(parts).where(parts.c.state.in_(final), parts.c.changed_ms < self._clock_ms() - KEPT_MS)
            )

    def _move(self, db: Connection, entry: Entry, state: PartState, platform_id: str, error: str) -> Entry:
        step(entry.state, state)
        moved = replace(
            entry, state=state, attempts=entry.attempts + (state is PartState.SENDING), platform_id=platform_id,
            error=error[:ERROR_CHARS_MAX], changed_ms=self._clock_ms(),
        )
        db.execute(_CHANGE, {
            "reply": moved.reply_id, "place": moved.number, "state": moved.state, "attempts": moved.attempts,
            "platform_id": moved.platform_id, "error": moved.error, "changed_ms": moved.changed_ms,
        })
        return moved


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(
        row.reply_id, row.number, row.chat, msgspec.msgpack.decode(row.body, type=Part), row.reply_to,
        PartState(row.state), row.attempts, row.platform_id, row.error, row.changed_ms,
    )
