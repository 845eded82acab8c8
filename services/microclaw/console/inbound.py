"""From what a person typed to `message.received`."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, bindparam, delete, insert, select

from microclaw.bus.api import Bus, Draft
from microclaw.console.tables import said
from microclaw.core.groups import is_chat
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Failed, Said, Say

#: Longest line, characters.
TEXT_CHARS_MAX = 100_000
#: Longest id, and longest name of a sender, in characters.
NAME_CHARS_MAX = 200
#: How long a typed line's id is remembered, ms: longer than anybody repeats a request.
KEPT_MS = 7 * 24 * 3600 * 1000

# Built once: making a statement costs more than running it.
_SAME = select(said).where(said.c.chat == bindparam("chat"), said.c.platform_id == bindparam("platform_id"))
_ADD = insert(said)


class Inbound:
    """Answers `console.say`."""

    def __init__(self, engine: Engine, bus: Bus, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._bus = bus
        self._clock_ms = clock_ms

    async def on_say(self, line: Say, _asker: str) -> Said | Failed:
        """Publish the line; answered once the journal has it. The same id again is the same message."""
        refused = _refusal(line)
        if refused:
            return Failed(reason=refused)
        first = self._first(line)
        if first.text != line.text:
            return Failed(
                reason=f"{line.platform_id} was already used for another text: choose a new id",
                code="conflict",
            )
        message_id = derived_id(first.sent_ms, "console", first.chat, first.platform_id)
        [receipt] = await self._bus.publish(
            Draft(first.chat, first, message_id=message_id, ts_ms=first.sent_ms)
        )
        return Said(seq=receipt.seq)

    def forget(self) -> None:
        """Drop ids that nobody will repeat."""
        with self._engine.begin() as db:
            db.execute(delete(said).where(said.c.sent_ms < self._clock_ms() - KEPT_MS))

    def _first(self, line: Say) -> MessageReceived:
        """The message as it was when this id was first seen: a repeat must not differ in its time."""
        with self._engine.begin() as db:
            row = db.execute(_SAME, {"chat": line.chat, "platform_id": line.platform_id}).first()
            if row is not None:
                return MessageReceived(
                    chat=row.chat, platform_id=row.platform_id, text=row.text, sender=row.sender,
                    sender_name=row.sender_name, sent_ms=row.sent_ms,
                )
            message = MessageReceived(
                chat=line.chat, platform_id=line.platform_id, text=line.text, sender=line.sender,
                sender_name=line.sender_name, sent_ms=self._clock_ms(),
            )
            db.execute(_ADD, {column.name: getattr(message, column.name) for column in said.c})
        return message


def _refusal(line: Say) -> str:
    if not is_chat(line.chat) or not line.chat.startswith("console:"):
        return f"{line.chat[:60]!r} is not a chat of the console: write it as console:NAME"
    if not 0 < len(line.platform_id) <= NAME_CHARS_MAX:
        return f"platform_id must have 1 to {NAME_CHARS_MAX} characters"
    if not line.text.strip():
        return "there is nothing to say: type a text"
    if len(line.text) > TEXT_CHARS_MAX:
        return f"the text has {len(line.text)} characters: at most {TEXT_CHARS_MAX} can go in one message"
    if max(len(line.sender), len(line.sender_name)) > NAME_CHARS_MAX:
        return f"a sender's name has at most {NAME_CHARS_MAX} characters"
    return ""
