"""Retention and repair take only what is done with, and leave a journal in which nothing new is lost."""

from __future__ import annotations

import os
from pathlib import Path

from tests.engine_alone import EngineAlone, Peer, envelope

from microclaw.bus.api import Subscription
from microclaw.bus.blobs import GRACE_S, BlobStore, handle_of
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check, repair
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id

WORK = Subscription("work", ("reply.requested",), backoff_ms=(0,), max_deliver=2)
RETENTION_MS = 10_000


def started(path: Path) -> tuple[EngineAlone, Peer, Peer]:
    """A publisher, and a consumer of `work`."""
    alone = EngineAlone(Journal(path), retention_ms=RETENTION_MS)
    publisher, consumer = alone.connect("p"), alone.connect("c")
    alone.subscribe(consumer, WORK)
    return alone, publisher, consumer


def given(alone: EngineAlone, consumer: Peer) -> list[int]:
    alone.settle_down()
    return [offset for offset, *_ in alone.taken(consumer)]


def publish(alone: EngineAlone, publisher: Peer, count: int = 1) -> None:
    alone.publish(publisher, *(envelope("p", f"s{n}", new_id(1)) for n in range(count)))


def settle(alone: EngineAlone, consumer: Peer, offsets: list[int]) -> None:
    alone.ack(consumer, "work", offsets)
    alone.clock.pass_(0.01)
    alone.settle_down()


def test_an_offset_is_not_given_again_when_what_waited_longest_is_deleted_last(tmp_path: Path) -> None:
    alone, publisher, consumer = started(tmp_path / "journal.db")
    publish(alone, publisher, 10)
    offsets = given(alone, consumer)
    alone.say(consumer, Op.NACK, "work", offsets[4], 60_000, "later")
    settle(alone, consumer, offsets[:4] + offsets[5:])
    alone.clock.pass_(RETENTION_MS / 1000 + 1)
    assert alone.engine.upkeep.expire() == 9
    settle(alone, consumer, [offsets[4]])
    assert alone.engine.upkeep.expire() == 1
    alone.journal.close()
    alone, publisher, consumer = started(tmp_path / "journal.db")
    publish(alone, publisher)
    assert given(alone, consumer) == [11], "not what the group has behind it"
    alone.journal.close()


def test_what_an_old_message_waits_for_is_written_before_retention_looks(tmp_path: Path) -> None:
    alone, publisher, consumer = started(tmp_path / "journal.db")
    publish(alone, publisher)
    assert given(alone, consumer) == [1]
    alone.clock.pass_(RETENTION_MS / 1000 + 1)
    alone.engine.gone(consumer.routing, clean=False)
    assert alone.engine.upkeep.expire() == 0, "it waits for another consumer"
    other = alone.connect("other")
    alone.subscribe(other, WORK)
    assert given(alone, other) == [1]
    alone.journal.close()


def test_a_dead_letter_that_is_dropped_takes_no_other_message_with_it(tmp_path: Path) -> None:
    alone, publisher, consumer = started(tmp_path / "journal.db")
    publish(alone, publisher, 2)
    first, second = given(alone, consumer)
    alone.say(consumer, Op.TERM, "work", first, "never")
    alone.clock.pass_(1)
    alone.settle_down()
    # Parked, and not on disk yet, when the owner drops the other one and the broker is killed.
    alone.say(consumer, Op.NACK, "work", second, 60_000, "later")
    assert alone.engine.upkeep.drop_dead(alone.engine.groups["work"], first)
    alone.journal.close()
    alone, publisher, consumer = started(tmp_path / "journal.db")
    assert given(alone, consumer) == [second]
    alone.journal.close()


def test_a_broker_whose_journal_has_been_emptied_has_nothing_to_do(tmp_path: Path) -> None:
    alone, publisher, consumer = started(tmp_path / "journal.db")
    alone.subscribe(alone.connect("idle"), Subscription("idle", ("other.kind",)))
    publish(alone, publisher, 10)
    settle(alone, consumer, given(alone, consumer))
    alone.clock.pass_(RETENTION_MS / 1000 + 1)
    assert alone.engine.upkeep.expire() == 10
    alone.journal.close()
    alone, publisher, consumer = started(tmp_path / "journal.db")
    idle, late = alone.connect("idle"), alone.connect("late")
    alone.subscribe(idle, Subscription("idle", ("other.kind",)))
    alone.subscribe(late, Subscription("late", ("reply.requested",)))
    alone.settle_down(5)
    publish(alone, publisher)
    assert given(alone, consumer) == given(alone, late) == [11]
    alone.journal.close()


def test_a_blob_that_is_put_again_is_kept_for_whoever_names_it_then(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    handle = handle_of(b"again")
    store.put(b"me", handle, 0, b"again", last=True)
    os.utime(store.path(handle), (1_000.0, 1_000.0))
    assert store.is_old(handle, 1_001.0 + GRACE_S)
    assert store.put(b"me", handle, 0, b"again", last=True)
    assert not store.is_old(handle, 1_001.0 + GRACE_S)


def test_what_is_published_after_a_repair_comes_to_groups_that_were_past_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    alone, publisher, consumer = started(path)
    publish(alone, publisher, 10)
    offsets = given(alone, consumer)
    alone.say(consumer, Op.NACK, "work", offsets[8], 60_000, "later")
    settle(alone, consumer, offsets[:8] + offsets[9:])
    alone.journal.begin()
    alone.journal._write("UPDATE messages SET crc = 1 WHERE offset > 8")
    alone.journal.commit()
    alone.journal.close()
    assert len(repair(path)[0]) == 2
    assert check(path) == []
    alone, publisher, consumer = started(path)
    assert alone.journal.counts()["messages"] == 8
    publish(alone, publisher)
    assert given(alone, consumer) == [11]
    alone.journal.close()
