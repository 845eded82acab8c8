"""Effect in the database and envelopes on the bus: both, or none, whatever is killed when.

A handler writes its effect *and* what is to be published in one database transaction. After the commit the
drafts go to the broker together with the acknowledgement; then the outbox rows are deleted. Killed before the
commit: nothing happened, the delivery comes again. Killed after it: the delivery comes again, `seen` finds it
and the handler publishes what the outbox still holds; the ids are the same, so the broker knows repeats.
Nobody can double, and nothing is forgotten.

    async def on_message(delivery):
        cause = delivery.envelope.message_id
        with engine.begin() as db:
            if not outbox.seen(db, cause):
                ... effect ...
                outbox.put(db, cause, drafts, now_ms=now)
        return await outbox.with_ack(bus, cause)

    service.consume(subscription, on_message, settled=outbox.settled)

Every service that uses it has its own two tables, made by `outbox_tables`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

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
    bindparam,
    delete,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusError, EnvelopeError, Refused
from microclaw.core.ids import new_id
from microclaw.store.old_rows import delete_old

log = logging.getLogger("microclaw.store")

#: How long the id of a handled delivery is remembered, in ms, and the newest of them whatever their age: a machine may
#: have been off for longer in the middle of one.
SEEN_KEPT_MS = 7 * 24 * 3600 * 1000
#: Drafts that are published in one go, at most, and their payloads' bytes: well below a frame of the bus.
PART_COUNT = 100
PART_BYTES = 4 << 20
#: Settled rows are deleted together, this much later, so that a message costs one commit and not two.
SETTLE_PAUSE_S = 0.5
#: What can't be deleted (a full disk) is tried again after this.
SETTLE_AGAIN_S = 10.0
#: Causes whose drafts are remembered between commit and acknowledgement; more are only there if many commits failed.
FRESH_COUNT_MAX = 1_000
#: Refusals that trying again can heal; all others are for ever.
_PASSING = frozenset({"busy", "no_space"})


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
        #: On the bus, but their rows are not deleted yet.
        self._settled: set[bytes] = set()
        #: What was put in this life and not asked for yet, by cause, as it stands in the database: `with_ack` need not
        #: read it back. What a failed transaction leaves here goes when its cause comes again.
        self._fresh: dict[bytes, list[Draft]] = {}
        # Built once: making a statement costs more than running it.
        self._find = select(inbox.c.message_id).where(inbox.c.message_id == bindparam("cause"))
        self._all_pending = select(outbox).order_by(outbox.c.number)
        self._pending_of = self._all_pending.where(outbox.c.cause == bindparam("cause"))
        self._note = insert(inbox)
        self._add = insert(outbox)

    def seen(self, db: Connection, message_id: bytes) -> bool:
        """Whether this delivery already took effect."""
        self._fresh.pop(message_id, None)
        return db.execute(self._find, {"cause": message_id}).first() is not None

    def put(self, db: Connection, cause: bytes, drafts: Sequence[Draft], *, now_ms: int) -> None:
        """Remember that `cause` took effect, and what it causes.

        Drafts need ids of their own, derived from `cause`.
        """
        db.execute(self._note, {"message_id": cause, "seen_ms": now_ms})
        if len(self._fresh) >= FRESH_COUNT_MAX:
            self._fresh.clear()
        self._fresh[cause] = self._add_rows(db, cause, drafts, now_ms)

    def add(self, db: Connection, cause: bytes, drafts: Sequence[Draft], *, now_ms: int) -> None:
        """What `cause` causes, without remembering `cause` itself (effects of time, not of mail)."""
        self._fresh.pop(cause, None)
        self._add_rows(db, cause, drafts, now_ms)

    def _add_rows(self, db: Connection, cause: bytes, drafts: Sequence[Draft], now_ms: int) -> list[Draft]:
        rows = [
            Draft(
                draft.session_id,
                draft.payload if isinstance(draft.payload, bytes) else msgspec.msgpack.encode(draft.payload),
                message_id=draft.message_id or new_id(now_ms),
                ts_ms=draft.ts_ms if draft.ts_ms is not None else now_ms,
                device_id=draft.device_id,
            )
            for draft in drafts
        ]
        if rows:
            db.execute(self._add, [
                {
                    "cause": cause,
                    "message_id": row.message_id,
                    "session_id": row.session_id,
                    "device_id": row.device_id,
                    "ts_ms": row.ts_ms,
                    "payload": row.payload,
                }
                for row in rows
            ])
        return rows

    def pending(self, cause: bytes | None = None) -> list[Draft]:
        """What is not known to be on the bus yet, of one cause or of all, in the order it was put."""
        with self._engine.begin() as db:
            rows = db.execute(self._all_pending if cause is None else self._pending_of, {"cause": cause})
            return [
                Draft(
                    row.session_id, row.payload,
                    message_id=row.message_id, ts_ms=row.ts_ms, device_id=row.device_id,
                )
                for row in rows if row.message_id not in self._settled
            ]

    async def with_ack(self, bus: Bus, cause: bytes) -> list[Draft]:
        """What is to be published with the acknowledgement of `cause`.

        If that is more than one frame should carry, all but the last part are published here, before it.

        :raises Refused: the broker will not take a part.
        """
        fresh = self._fresh.pop(cause, None)
        *early, last = list(_parts(self.pending(cause) if fresh is None else fresh)) or [[]]
        for part in early:
            await bus.publish(*part)
            self.settled(part)
        return last

    def settled(self, drafts: Sequence[Draft]) -> None:
        """The bus has these: their rows are deleted within `SETTLE_PAUSE_S`.

        Killed before that, they are published again at the next start, and the broker knows them.
        To be called in the event loop.
        """
        if drafts:
            if not self._settled:
                asyncio.get_running_loop().call_later(SETTLE_PAUSE_S, self._delete_settled)
            self._settled.update(draft.message_id for draft in drafts if draft.message_id)

    async def flush(self, bus: Bus, cause: bytes | None = None) -> list[BusError]:
        """Publish what is pending, of all or of one cause: at start, for effects that no delivery caused.

        Returns why the broker refused some for ever (too big, not allowed); they are dropped: tell the owner.

        :raises Refused: `busy`, `no_space`: what was not published stays.
        """
        refusals: list[BusError] = []
        for part in _parts(self.pending(cause)):
            try:
                await bus.publish(*part)
            except (Refused, EnvelopeError) as refused:
                if passes(refused):
                    raise
                refusals += await self._one_by_one(bus, part)
            self.settled(part)
        return refusals

    async def flush_and_tell(self, bus: Bus, trouble: Callable[[str], None]) -> None:
        """`flush` all of it; what can't be published, for ever or now, is told (`Service.trouble`), not raised."""
        try:
            for refused in await self.flush(bus):
                trouble(f"the broker refused what was to be said: {refused}")
        except Refused as refused:
            trouble(f"the broker takes nothing at present: {refused}")

    def forget(self, *, now_ms: int) -> None:
        """Drop inbox rows that no redelivery can need."""
        with self._engine.begin() as db:
            delete_old(db, self._inbox, self._inbox.c.seen_ms, now_ms - SEEN_KEPT_MS)

    async def _one_by_one(self, bus: Bus, drafts: Sequence[Draft]) -> list[BusError]:
        refusals: list[BusError] = []
        for draft in drafts:
            try:
                await bus.publish(draft)
            except (Refused, EnvelopeError) as refused:
                if passes(refused):
                    raise
                refusals.append(refused)
        return refusals

    def _delete_settled(self) -> None:
        ids = list(self._settled)
        try:
            with self._engine.begin() as db:
                for start in range(0, len(ids), PART_COUNT):
                    part = ids[start:start + PART_COUNT]
                    db.execute(delete(self._outbox).where(self._outbox.c.message_id.in_(part)))
        except DatabaseError as error:
            # Nobody waits for it: until it is done, they are passed over.
            log.warning("what is published can't be deleted", extra={"rows": len(ids), "why": str(error.orig)})
            asyncio.get_running_loop().call_later(SETTLE_AGAIN_S, self._delete_settled)
            return
        self._settled.difference_update(ids)


def passes(refused: BusError) -> bool:
    """Whether trying again later can heal this refusal."""
    return isinstance(refused, Refused) and refused.code in _PASSING


def _parts(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    part: list[Draft] = []
    size = 0
    for draft in drafts:
        length = len(draft.payload) if isinstance(draft.payload, bytes) else 0
        if part and (len(part) == PART_COUNT or size + length > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(draft)
        size += length
    if part:
        yield part
