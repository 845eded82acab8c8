"""Effect in the database and envelopes on the bus: both, or none, whatever is killed when.

A handler writes its effect *and* what is to be published in one database transaction. After the commit the drafts go to
the broker together with the acknowledgement; then the outbox rows are deleted. Killed before the commit: nothing
happened, the delivery comes again. Killed after it: the delivery comes again, `seen` finds its id and the handler
publishes what the outbox still holds; the ids are the same, so the broker knows repeats. Nobody can double, and nothing
is forgotten.

    with engine.begin() as db:
        if not outbox.seen(db, delivery.envelope.message_id):
            ... effect ...
            outbox.put(db, delivery.envelope.message_id, drafts)
    return outbox.pending(delivery.envelope.message_id)

Every service that uses it has its own two tables, made by `outbox_tables`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)

from microclaw.bus.api import Bus, Draft
from microclaw.core.ids import new_id

#: How long the id of a handled delivery is remembered, in ms: longer than any redelivery can take.
SEEN_KEPT_MS = 7 * 24 * 3600 * 1000


def outbox_tables(metadata: MetaData, service: str) -> tuple[Table, Table]:
    """The service's (outbox, inbox) tables."""
    outbox = Table(
        f"{service}_outbox", metadata,
        Column("number", Integer, primary_key=True, autoincrement=True),
        Column("cause", LargeBinary(16), nullable=False, index=True, comment="message id of what caused it"),
        Column("message_id", LargeBinary(16), nullable=False),
        Column("session_id", String(200), nullable=False),
        Column("device_id", String(200), nullable=False, default=""),
        Column("ts_ms", BigInteger, nullable=False),
        Column("payload", LargeBinary, nullable=False),
    )
    inbox = Table(
        f"{service}_inbox", metadata,
        Column("message_id", LargeBinary(16), primary_key=True),
        Column("seen_ms", BigInteger, nullable=False, index=True),
    )
    return outbox, inbox


class Outbox:
    """One service's outbox and inbox."""

    def __init__(self, engine: Engine, outbox: Table, inbox: Table) -> None:
        self._engine = engine
        self._outbox = outbox
        self._inbox = inbox

    def seen(self, db: Connection, message_id: bytes) -> bool:
        """Whether this delivery already took effect."""
        row = db.execute(select(self._inbox.c.message_id).where(self._inbox.c.message_id == message_id)).first()
        return row is not None

    def put(self, db: Connection, cause: bytes, drafts: Sequence[Draft], *, now_ms: int) -> None:
        """Remember that `cause` took effect, and what it causes. Drafts need ids of their own (derived from `cause`)."""
        db.execute(insert(self._inbox), {"message_id": cause, "seen_ms": now_ms})
        self.add(db, cause, drafts, now_ms=now_ms)

    def add(self, db: Connection, cause: bytes, drafts: Sequence[Draft], *, now_ms: int) -> None:
        """What is to be published because of `cause`, without remembering `cause` (for effects of time, not of mail)."""
        if drafts:
            db.execute(insert(self._outbox), [
                {
                    "cause": cause,
                    "message_id": draft.message_id or new_id(now_ms),
                    "session_id": draft.session_id,
                    "device_id": draft.device_id,
                    "ts_ms": draft.ts_ms if draft.ts_ms is not None else now_ms,
                    "payload": draft.payload if isinstance(draft.payload, bytes)
                    else msgspec.msgpack.encode(draft.payload),
                }
                for draft in drafts
            ])

    def pending(self, cause: bytes | None = None) -> list[Draft]:
        """What is not known to be on the bus yet, of one cause or of all, in the order it was put."""
        query = select(self._outbox).order_by(self._outbox.c.number)
        if cause is not None:
            query = query.where(self._outbox.c.cause == cause)
        with self._engine.begin() as db:
            return [
                Draft(row.session_id, row.payload, message_id=row.message_id, ts_ms=row.ts_ms, device_id=row.device_id)
                for row in db.execute(query)
            ]

    def settled(self, drafts: Sequence[Draft]) -> None:
        """The bus has these: forget them."""
        if drafts:
            with self._engine.begin() as db:
                db.execute(delete(self._outbox).where(
                    self._outbox.c.message_id.in_([draft.message_id for draft in drafts])
                ))

    async def flush(self, bus: Bus) -> int:
        """Publish whatever is pending (at start, and for effects that no delivery caused). Returns how many."""
        drafts = self.pending()
        for start in range(0, len(drafts), 100):
            part = drafts[start:start + 100]
            await bus.publish(*part)
            self.settled(part)
        return len(drafts)

    def forget(self, *, now_ms: int) -> None:
        """Drop inbox rows older than any redelivery."""
        with self._engine.begin() as db:
            db.execute(delete(self._inbox).where(self._inbox.c.seen_ms < now_ms - SEEN_KEPT_MS))

