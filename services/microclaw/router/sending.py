"""What a person sends by hand (`microclaw message send`)."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, select

from microclaw.bus.api import Bus, Draft
from microclaw.core.ids import derived_id, new_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.requests import Deliver, Done, Failed
from microclaw.router import commands
from microclaw.router.tables import chats
from microclaw.store.outbox import Outbox

#: Longest text of one message, characters; far above what any channel takes in one piece.
TEXT_CHARS_MAX = 100_000


class Sending:
    """Answers `message.send`."""

    def __init__(self, engine: Engine, outbox: Outbox, bus: Bus, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._clock_ms = clock_ms

    async def on_deliver(self, wanted: Deliver, _asker: str) -> Done | Failed:
        """Ask the chat's connector to say it. Answered once the request is in the journal."""
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        if not wanted.text.strip():
            return Failed(reason="there is no text to send: give one")
        if len(wanted.text) > TEXT_CHARS_MAX:
            return Failed(reason=f"{len(wanted.text)} characters are too many: {TEXT_CHARS_MAX} can be sent")
        cause = derived_id(0, "message.send", wanted.command_id)
        with self._engine.begin() as db:
            if db.execute(select(chats.c.chat).where(chats.c.chat == wanted.chat)).first() is None:
                return Failed(
                    reason=f"no chat {wanted.chat[:80]!r} is known: `microclaw groups list` shows those that are",
                    code="not_found",
                )
            now = self._clock_ms()
            if commands.answered(db, wanted.command_id, Done) is None:
                reply = ReplyRequested(
                    chat=wanted.chat, text=wanted.text, origin="message", reply_to=wanted.reply_to
                )
                self._outbox.add(db, cause, [Draft(wanted.chat, reply, message_id=new_id(now))], now_ms=now)
                commands.remember(db, wanted.command_id, Done(), now_ms=now)
        # A repeat after a crash publishes what the first try left.
        refused = await self._outbox.flush(self._bus, cause)
        if refused:
            return Failed(reason=f"the broker refused it: {refused[0]}", code="denied")
        return Done()
