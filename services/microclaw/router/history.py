"""Takes over the history of another installation."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, select, update

from microclaw.core.groups import is_chat, is_conversation
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Failed, Imported, ImportMessages
from microclaw.core.text import is_worth_storing
from microclaw.router.messages import note_chat, store
from microclaw.router.registry import Registry
from microclaw.router.tables import messages

#: Stands for the run that had a message before it came to us.
READ_ELSEWHERE = bytes(16)
#: Messages of one request, at most.
MESSAGES_MAX = 1000


class History:
    """Answers `messages.import`."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    async def on_import(self, wanted: ImportMessages, asker: str) -> Imported | Failed:
        """All of these, or none. Doing it again adds nothing."""
        if asker != "cli":
            return Failed(reason=f"{asker} may not import: use `microclaw migrate`", code="denied")
        if len(wanted.messages) > MESSAGES_MAX:
            return Failed(reason=f"{len(wanted.messages)} messages are too many: send {MESSAGES_MAX} at a time")
        wrong = next((each.chat for each in wanted.messages if not is_chat(each.chat)), None)
        if wrong is not None:
            return Failed(reason=f"{wrong[:60]!r} is not a chat: write channel:id")
        counts = {"added": 0, "known": 0, "elsewhere": 0}
        with self._engine.begin() as db:
            for each in wanted.messages:
                counts[self._take(db, each, wanted.is_read)] += 1
        return Imported(**counts)

    def _take(self, db: Connection, received: MessageReceived, is_read: bool) -> str:
        if not is_conversation(received.chat):
            return "elsewhere"
        note_chat(db, received)
        if self._registry.of_chat(received.chat) is None or not is_worth_storing(received.text):
            return "elsewhere"
        here = (messages.c.chat == received.chat) & (messages.c.platform_id == received.platform_id)
        if db.execute(select(messages.c.number).where(here)).first() is not None:
            # What came over the bus since is newer than what the history says.
            return "known"
        store(db, received)
        if is_read:
            db.execute(update(messages).where(here).values(request_id=READ_ELSEWHERE))
        return "added"
