"""The outbox between a real database and the real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError
from tests.contract.processes import DEADLINE_S, Installation, installation, until

from microclaw.bus.api import Bus, Draft
from microclaw.core.ids import derived_id
from microclaw.core.kinds import ReplyDelivered
from microclaw.store import outbox as outbox_module
from microclaw.store.engine import engine_for
from microclaw.store.outbox import Outbox, outbox_tables
from microclaw.store.schema import new_metadata

CAUSE, OTHER = derived_id(1, "cause"), derived_id(1, "other")


@pytest.fixture
async def made() -> AsyncIterator[Installation]:
    async with installation("broker") as found:
        yield found


@pytest.fixture
async def bus(made: Installation) -> Bus:
    # A connector: it may publish reply.delivered in its own chats, and nothing of others.
    return await made.connect("console")


@pytest.fixture
def engine(made: Installation) -> Engine:
    return engine_for(made.home.data / "box.db")


@pytest.fixture
def box(engine: Engine) -> Outbox:
    metadata = new_metadata()
    tables = outbox_tables(metadata, "box")
    metadata.create_all(engine)
    return Outbox(engine, *tables)


def draft(number: int, chat: str = "console:a", text: str = "") -> Draft:
    done = ReplyDelivered(chat=chat, reply_id=str(number), status="sent", error=text)
    return Draft(chat, done, message_id=derived_id(1, number), ts_ms=7)


def seen(engine: Engine, box: Outbox, cause: bytes) -> bool:
    with engine.begin() as db:
        return box.seen(db, cause)


def numbers(drafts: list[Draft]) -> list[bytes | None]:
    return [one.message_id for one in drafts]


async def test_what_was_rolled_back_never_happened(engine: Engine, box: Outbox) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin() as db:
        box.put(db, CAUSE, [draft(1)], now_ms=1)
        raise ZeroDivisionError
    assert not seen(engine, box, CAUSE) and box.pending() == []


async def test_drafts_come_in_order_with_all_their_fields_until_they_are_settled(engine: Engine, box: Outbox) -> None:
    with engine.begin() as db:
        box.put(db, CAUSE, [draft(2), draft(1)], now_ms=1)
        box.put(db, OTHER, [draft(3)], now_ms=1)
    assert seen(engine, box, CAUSE)
    first = box.pending(CAUSE)
    assert numbers(first) == numbers([draft(2), draft(1)])
    assert (first[0].session_id, first[0].ts_ms) == ("console:a", 7)
    box.settled(first)
    assert box.pending(CAUSE) == [] and numbers(box.pending()) == [draft(3).message_id]
    again = Outbox(engine, box._outbox, box._inbox)
    assert len(again.pending()) == 3, "killed before the rows were deleted: they go again, under the same ids"

    def deleted() -> bool:
        return len(again.pending()) == 1

    await until(deleted)


async def test_flush_publishes_once_whatever_is_repeated(engine: Engine, box: Outbox, bus: Bus) -> None:
    with engine.begin() as db:
        box.add(db, CAUSE, [draft(1), draft(2)], now_ms=1)
    assert await box.flush(bus, OTHER) == [] and len(box.pending()) == 2
    assert await box.flush(bus) == []
    receipts = await bus.publish(draft(1), draft(2), draft(3))
    assert [(one.seq, one.duplicate) for one in receipts] == [(1, True), (2, True), (3, False)]


async def test_what_the_broker_never_takes_is_told_and_stops_nothing_else(
    engine: Engine, box: Outbox, bus: Bus
) -> None:
    strange = Draft("console:a", b"\x81\xa4kind\xa1x", message_id=derived_id(1, "strange"))
    huge = draft(9, text="x" * (1 << 20))
    with engine.begin() as db:
        box.add(db, CAUSE, [draft(1), draft(2, "telegram:b"), strange, huge, draft(3)], now_ms=1)
    refusals = await box.flush(bus)
    assert len(refusals) == 3
    assert [one.duplicate for one in await bus.publish(draft(1), draft(3))] == [True, True]
    assert box.pending() == []


async def test_more_than_a_frame_goes_in_parts_before_the_acknowledgement(
    engine: Engine, box: Outbox, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "PART_COUNT", 10)
    drafts = [draft(number) for number in range(25)]
    with engine.begin() as db:
        box.put(db, CAUSE, drafts, now_ms=1)
    last = await box.with_ack(bus, CAUSE)
    assert numbers(last) == numbers(drafts[20:])
    assert [one.duplicate for one in await bus.publish(*drafts)] == [True] * 20 + [False] * 5
    assert await box.with_ack(bus, OTHER) == []


async def test_what_goes_with_the_acknowledgement_is_what_stands_in_the_database(
    engine: Engine, box: Outbox, bus: Bus
) -> None:
    plain = msgspec.structs.replace(draft(2), ts_ms=None)
    with engine.begin() as db:
        box.put(db, CAUSE, [draft(1), plain], now_ms=5)
    stored = box.pending(CAUSE)
    first = await box.with_ack(bus, CAUSE)
    again = await box.with_ack(bus, CAUSE)  # the acknowledgement did not arrive: delivered again
    assert first == again == stored and [one.ts_ms for one in first] == [7, 5]
    with engine.begin() as db:
        box.add(db, CAUSE, [draft(3)], now_ms=6)
    assert numbers(await box.with_ack(bus, CAUSE)) == numbers([draft(1), plain, draft(3)])


async def test_drafts_of_a_failed_transaction_never_go_out(engine: Engine, box: Outbox, bus: Bus) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin() as db:
        box.put(db, CAUSE, [draft(1)], now_ms=1)
        raise ZeroDivisionError
    assert not seen(engine, box, CAUSE)
    assert await box.with_ack(bus, CAUSE) == []
    with engine.begin() as db:
        box.put(db, CAUSE, [draft(2)], now_ms=1)
    assert numbers(await box.with_ack(bus, CAUSE)) == [draft(2).message_id]


async def test_rows_that_could_not_be_deleted_are_a_little_later(
    engine: Engine, box: Outbox, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for a while, or a copy of the database is made."""
    monkeypatch.setattr(outbox_module, "SETTLE_AGAIN_S", 0.05)
    with engine.begin() as db:
        box.put(db, CAUSE, [draft(1)], now_ms=1)
        db.exec_driver_sql("CREATE TRIGGER full BEFORE DELETE ON box_outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
    failed = asyncio.Event()
    monkeypatch.setattr(outbox_module.log, "warning", lambda *_a, **_k: failed.set())
    assert await box.flush(bus) == []
    await asyncio.wait_for(failed.wait(), DEADLINE_S)
    assert box.pending() == []
    with engine.begin() as db:
        db.exec_driver_sql("DROP TRIGGER full")
    await until(lambda: rows(engine) == 0)
    with engine.begin() as db:
        box.put(db, OTHER, [draft(2)], now_ms=1)
    assert await box.flush(bus) == []
    await until(lambda: rows(engine) == 0)


def rows(engine: Engine) -> int:
    with engine.begin() as db:
        return int(db.exec_driver_sql("SELECT count(*) FROM box_outbox").scalar_one())


async def test_the_newest_inbox_rows_are_remembered_however_long_the_machine_was_off(
    engine: Engine, box: Outbox
) -> None:
    """A power cut between a commit and its acknowledgement, and a month until somebody is home again."""
    with engine.begin() as db:
        box.put(db, CAUSE, [], now_ms=1_000)
    box.forget(now_ms=4 * outbox_module.SEEN_KEPT_MS)
    assert seen(engine, box, CAUSE)


async def test_an_inbox_row_is_forgotten_after_a_week(
    engine: Engine, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microclaw.store.old_rows.SPARED_ROWS", 0)
    with engine.begin() as db:
        box.put(db, CAUSE, [], now_ms=1_000)
        box.put(db, OTHER, [], now_ms=2_000)
    box.forget(now_ms=1_500 + outbox_module.SEEN_KEPT_MS)
    assert not seen(engine, box, CAUSE) and seen(engine, box, OTHER)



async def test_an_error_of_the_database_holds_no_words_of_people(engine: Engine) -> None:
    """It goes to the log and, as the reason, to the dead letters."""
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE said (text TEXT CHECK (0))")
    with pytest.raises(DatabaseError, match="CHECK") as caught, engine.begin() as db:
        db.execute(text("INSERT INTO said VALUES (:said)"), {"said": "my diary"})
    assert "diary" not in str(caught.value)
