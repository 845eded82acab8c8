"""An agent asked its chat something: the next message there is for it, whether it calls it by name or not."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert

from microclaw.core.requests import AwaitAnswer, Done, Failed
from microclaw.router import commands
from microclaw.router.registry import Registry
from microclaw.router.tables import awaited

#: How long an answer is waited for, in ms.
ANSWER_MS_MAX = 24 * 3600 * 1000


class Awaiting:
    """Answers `messages.await`."""

    def __init__(self, engine: Engine, registry: Registry, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._registry = registry
        self._clock_ms = clock_ms

    async def on_await(self, wanted: AwaitAnswer, asker: str) -> Done | Failed:
        """Once a command; a chat waits for one answer, whoever asked last."""
        if asker != "sandbox":
            return Failed(reason=f"{asker} may not wait for answers", code="denied")
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        group = self._registry.of_chat(wanted.chat)
        if group is None or group.folder != wanted.group:
            return Failed(reason="that chat is not this group's", code="denied")
        now = self._clock_ms()
        with self._engine.begin() as db:
            if commands.answered(db, wanted.command_id, Done) is None:
                db.execute(delete(awaited).where(awaited.c.chat == wanted.chat))
                db.execute(insert(awaited), {"chat": wanted.chat, "expires_ms": now + ANSWER_MS_MAX})
                commands.remember(db, wanted.command_id, Done(), now_ms=now)
        return Done()


def is_the_answer(db: Connection, chat: str, *, now_ms: int) -> bool:
    """Whether what was just written in the chat is what is waited for there; then nothing is any more."""
    expires_ms = db.execute(
        delete(awaited).where(awaited.c.chat == chat).returning(awaited.c.expires_ms)
    ).scalar()
    return expires_ms is not None and now_ms < expires_ms
