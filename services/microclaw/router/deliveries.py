"""How replies ended: what did not arrive is told to the owner, once, and shown in `status`."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert, select, update

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.core.ids import derived_id, id_text
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.people import shown
from microclaw.core.people_requests import Deliveries as Answer
from microclaw.core.people_requests import DeliveriesAsked, DeliveryRow
from microclaw.router.pace import Paces
from microclaw.router.registry import Registry
from microclaw.router.tables import chats, deliveries
from microclaw.store.outbox import Outbox

#: How long they are remembered, and from when on a delivery is no news any more.
KEPT_MS = 30 * 24 * 3600 * 1000
NEWS_MS = 24 * 3600 * 1000
#: Rows of one list, and of an error in the owner's chat.
ROWS_MAX = 200
ERROR_CHARS = 200

_WORDS = {
    "failed": "could not be delivered", "uncertain": "may or may not have arrived: I don't send it twice; look there",
    "expired": "was too old to be sent",
}


class Deliveries:
    """Consumer of `reply.delivered`."""

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, registry: Registry, paces: Paces, clock_ms: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._registry = registry
        self._paces = paces
        self._clock_ms = clock_ms
        with engine.begin() as db:
            #: Replies that are known as not arrived: of all others a "sent" is no news.
            self._open = set(db.execute(select(deliveries.c.reply_id)).scalars())

    async def on_delivered(self, delivery: Delivery) -> list[Draft]:
        """Note how a reply ended; returns what the owner is told."""
        cause = delivery.envelope.message_id
        end = delivery.envelope.read(ReplyDelivered)
        if end.status == "sent":
            self._paces.replied(end.chat)
            if end.reply_id in self._open:
                # What was uncertain has been found.
                with self._engine.begin() as db:
                    db.execute(delete(deliveries).where(deliveries.c.reply_id == end.reply_id))
                self._open.discard(end.reply_id)
            return []
        with self._engine.begin() as db:
            if not self._outbox.seen(db, cause):
                self._outbox.put(db, cause, self._note(db, end, delivery.envelope.ts_ms), now_ms=self._clock_ms())
        self._open.add(end.reply_id)
        return await self._outbox.with_ack(self._bus, cause)

    async def on_list(self, question: DeliveriesAsked, _asker: str) -> Answer:
        """Answer `deliveries.list`."""
        query = select(deliveries).order_by(deliveries.c.done_ms.desc()).limit(min(question.limit, ROWS_MAX))
        with self._engine.begin() as db:
            return Answer(rows=tuple(
                DeliveryRow(
                    reply_id=row.reply_id, chat=row.chat, state=row.state, error=row.error, done_ms=row.done_ms,
                    group=group.folder if (group := self._registry.of_chat(row.chat)) else "",
                )
                for row in db.execute(query)
            ))

    def tidy(self) -> None:
        """Drop what is old."""
        with self._engine.begin() as db:
            db.execute(delete(deliveries).where(deliveries.c.done_ms < self._clock_ms() - KEPT_MS))
            self._open = set(db.execute(select(deliveries.c.reply_id)).scalars())

    def _note(self, db: Connection, end: ReplyDelivered, ended_ms: int) -> list[Draft]:
        known = {"state": end.status, "error": " ".join(end.error.split())[:ERROR_CHARS], "done_ms": ended_ms}
        same = deliveries.c.reply_id == end.reply_id
        if db.execute(update(deliveries).where(same), known).rowcount:
            return []
        db.execute(insert(deliveries), known | {"reply_id": end.reply_id, "chat": end.chat})
        if end.status not in _WORDS or self._clock_ms() - ended_ms > NEWS_MS or self._is_ours(end.reply_id):
            return []
        # A chat that just failed is not where the owner can be told so.
        owner = self._registry.owner_chat(db, but_not=end.chat)
        if not owner:
            return []
        name = db.execute(select(chats.c.name).where(chats.c.chat == end.chat)).scalar() or end.chat
        why = f" ({known['error']})" if known["error"] else ""
        text = f"A message of mine to {shown(str(name))} ({end.chat}) {_WORDS[end.status]}{why}."
        notice = notice_id(end.reply_id)
        return [Draft(owner, ReplyRequested(chat=owner, text=text, origin="notice"), message_id=notice)]

    def _is_ours(self, reply_id: str) -> bool:
        """Whether the reply is itself such a notice: of these nobody is told, or it would never end."""
        return any(id_text(notice_id(each)) == reply_id for each in self._open)


def notice_id(reply_id: str) -> bytes:
    """The message id of the notice about a reply."""
    return derived_id(0, "router.undelivered", reply_id)
