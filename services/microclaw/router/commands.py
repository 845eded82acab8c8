"""Requests that change something take effect once: the same `command_id` gets the first answer again."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine, insert, select

from microclaw.router.tables import commands
from microclaw.store.old_rows import delete_old

#: How long an answer is kept, ms; the newest are whatever their age.
KEPT_MS = 7 * 24 * 3600 * 1000
#: Longest `command_id`.
COMMAND_ID_CHARS_MAX = 200

Answer = TypeVar("Answer", bound=msgspec.Struct)


def is_command_id(text: str) -> bool:
    """Whether the asker chose a usable id."""
    return 0 < len(text) <= COMMAND_ID_CHARS_MAX


def answered(db: Connection, command_id: str, kind: type[Answer]) -> Answer | None:
    """The answer this command got, None if it has not taken effect."""
    raw = db.execute(select(commands.c.answer).where(commands.c.command_id == command_id)).scalar()
    return None if raw is None else msgspec.msgpack.decode(raw, type=kind)


def remember(db: Connection, command_id: str, answer: msgspec.Struct, *, now_ms: int) -> None:
    """Keep the answer, in the transaction of the effect."""
    db.execute(insert(commands), {
        "command_id": command_id, "answer": msgspec.msgpack.encode(answer), "done_ms": now_ms,
    })


def forget(engine: Engine, *, now_ms: int) -> None:
    """Drop answers that nobody will ask for again."""
    with engine.begin() as db:
        delete_old(db, commands, commands.c.done_ms, now_ms - KEPT_MS)
