"""From `reply.requested` to a line that can be read, by the delivery ledger: each reply is shown once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

from sqlalchemy import Connection, Engine, bindparam, func, insert, select

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.console.tables import lines
from microclaw.core.ids import derived_id, id_text, id_time
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.requests import ConsoleLine, Lines, Read
from microclaw.core.settings import Assistant
from microclaw.core.text import outbound
from microclaw.store.outbox import Outbox

#: Longest wait of one `console.read`; below the patience of whoever asks.
WAIT_MS_MAX = 25_000
#: Lines in one answer, at most, and the characters after which no further line is added.
READ_LINES_MAX = 200
READ_CHARS_MAX = 100_000

# Built once: making a statement costs more than running it.
_ADD = insert(lines)
_LAST = select(func.max(lines.c.number)).where(lines.c.chat == bindparam("chat"))
_AFTER = (
    select(lines).where(lines.c.chat == bindparam("chat"), lines.c.number > bindparam("after"))
    .order_by(lines.c.number).limit(READ_LINES_MAX)
)


class Outbound:
    """Consumer of the console's `reply.requested`, and answerer of `console.read`."""

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, assistant: Assistant, clock_ms: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._assistant = assistant
        self._clock_ms = clock_ms
        #: Readers that wait for a chat's next line.
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def on_reply(self, delivery: Delivery) -> list[Draft]:
        """Write the reply into the ledger, once; returns the record of its delivery."""
        cause = delivery.envelope.message_id
        reply = delivery.envelope.read(ReplyRequested)
        with self._engine.begin() as db:
            if not self._outbox.seen(db, cause):
                record = self._deliver(db, reply, cause)
                draft = Draft(reply.chat, record, message_id=derived_id(id_time(cause), cause, "delivered"))
                self._outbox.put(db, cause, [draft], now_ms=self._clock_ms())
        self._wake(reply.chat)
        return await self._outbox.with_ack(self._bus, cause)

    async def on_read(self, question: Read, _asker: str) -> Lines:
        """The lines after `after`, as soon as there are any, or after `wait_ms` without."""
        if question.only_last:
            return Lines(lines=(), last=self._last(question.chat))
        deadline = asyncio.get_running_loop().time() + min(max(question.wait_ms, 0), WAIT_MS_MAX) / 1000
        added = asyncio.Event()
        self._waiting[question.chat].add(added)
        try:
            async with asyncio.timeout_at(deadline):
                while not (found := self._after(question.chat, question.after)):
                    await added.wait()
                    added.clear()
        except TimeoutError:
            found = ()
        finally:
            self._waiting[question.chat].discard(added)
            if not self._waiting[question.chat]:
                del self._waiting[question.chat]
        return Lines(lines=found, last=self._last(question.chat))

    def _wake(self, chat: str) -> None:
        for added in self._waiting.get(chat, ()):
            added.set()

    def _deliver(self, db: Connection, reply: ReplyRequested, cause: bytes) -> ReplyDelivered:
        now = self._clock_ms()
        text = outbound(reply.text, self._assistant.name, prefix=self._assistant.prefix)
        text = "\n".join([*([text] if text else []), *(f"[file: {file.name}]" for file in reply.attachments)])
        status: Literal["sent", "failed", "expired"] = "sent"
        number: int | None = None
        if reply.expires_ms and reply.expires_ms <= now:
            status = "expired"
        elif not text:
            status = "failed"
        else:
            number = _last_number(db, reply.chat) + 1
        db.execute(_ADD, {
            "reply_id": cause, "chat": reply.chat, "number": number, "text": text, "origin": reply.origin,
            "status": status, "done_ms": now,
        })
        return ReplyDelivered(
            chat=reply.chat, reply_id=id_text(cause), status=status, platform_id=str(number or ""),
            error="there was nothing to show" if status == "failed" else "",
        )

    def _last(self, chat: str) -> int:
        with self._engine.begin() as db:
            return _last_number(db, chat)

    def _after(self, chat: str, after: int) -> tuple[ConsoleLine, ...]:
        with self._engine.begin() as db:
            rows = db.execute(_AFTER, {"chat": chat, "after": after}).all()
        found: list[ConsoleLine] = []
        size = 0
        for row in rows:
            if found and size + len(row.text) > READ_CHARS_MAX:
                break
            size += len(row.text)
            found.append(ConsoleLine(
                number=row.number, reply_id=id_text(row.reply_id), text=row.text, origin=row.origin,
                sent_ms=row.done_ms,
            ))
        return tuple(found)


def _last_number(db: Connection, chat: str) -> int:
    return db.execute(_LAST, {"chat": chat}).scalar() or 0
