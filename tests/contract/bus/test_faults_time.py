"""Faults 9, 12 and 25: clocks that jump, cursors that are wrong, retention while everybody works."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine_alone import EngineAlone, envelope

from microclaw.bus.api import Subscription
from microclaw.bus.group import PAUSE_MS_MAX
from microclaw.bus.journal import Journal
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id

HOUR_MS = 3_600_000
WORK = Subscription("work", ("reply.requested",), ack_wait_ms=30_000, backoff_ms=(5_000,))


@pytest.fixture
def alone(tmp_path: Path):
    journal = Journal(tmp_path / "journal.db")
    yield EngineAlone(journal)
    journal.close()


def say(alone: EngineAlone, session: str, *, not_before_ms: int = 0) -> list[object]:
    return [envelope("p", session, new_id(alone.clock.wall_ms)), not_before_ms, 0, None]


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
def test_fault09_a_clock_that_jumps_moves_no_lease_no_pause_and_no_seq(alone: EngineAlone, jump_ms: int) -> None:
    peer = alone.connect("p")
    alone.subscribe(peer, WORK)
    first = alone.publish(peer, say(alone, "s"))
    alone.settle_down()
    ((offset, _seq, count, _body),) = alone.taken(peer)
    assert count == 1
    alone.clock.wall_ms += jump_ms
    second = alone.publish(peer, say(alone, "s"))
    alone.settle_down()
    assert alone.taken(peer) == [], "its lease has not ended"
    assert (peer.receipts[first], peer.receipts[second]) == ([[1, False]], [[2, False]])
    alone.clock.monotonic_s += 29
    alone.settle_down()
    assert alone.taken(peer) == []
    alone.clock.monotonic_s += 2
    alone.settle_down()
    alone.clock.wall_ms -= jump_ms
    alone.clock.monotonic_s += 4
    alone.settle_down()
    assert alone.taken(peer) == [], "and now it pauses, five seconds by the clock that can't be set"
    alone.clock.monotonic_s += 2
    alone.settle_down()
    assert [(given[0], given[2]) for given in alone.taken(peer)] == [(offset, 2)]


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
def test_fault09_a_message_for_later_is_delivered_when_its_time_has_passed(alone: EngineAlone, jump_ms: int) -> None:
    peer = alone.connect("p")
    alone.subscribe(peer, WORK)
    alone.publish(peer, say(alone, "s", not_before_ms=alone.clock.wall_ms + 60_000))
    alone.settle_down()
    alone.clock.wall_ms += jump_ms
    alone.clock.monotonic_s += 59
    alone.settle_down()
    assert alone.taken(peer) == []
    alone.clock.monotonic_s += 2
    alone.settle_down()
    assert len(alone.taken(peer)) == 1


@pytest.mark.parametrize("back_ms", [HOUR_MS, 30 * 24 * HOUR_MS])
def test_fault09_a_pause_is_no_longer_than_a_day_after_a_restart_with_the_clock_set_back(
    tmp_path: Path, back_ms: int
) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    alone.subscribe(peer, WORK)
    alone.publish(peer, say(alone, "s"))
    alone.settle_down()
    ((offset, *_),) = alone.taken(peer)
    alone.say(peer, Op.NACK, "work", offset, None, "later")
    alone.clock.pass_(1)
    alone.turn()
    clock = alone.clock
    clock.wall_ms -= back_ms
    alone = EngineAlone(journal, clock)
    peer = alone.connect("p")
    alone.subscribe(peer, WORK)
    clock.pass_(min(back_ms, PAUSE_MS_MAX) / 1000 + 6)
    alone.settle_down()
    assert [given[2] for given in alone.taken(peer)] == [2]
    journal.close()


def test_fault12_a_cursor_before_what_is_kept_is_a_gap_and_one_beyond_the_end_another_epoch(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal, retention_ms=1_000)
    peer = alone.connect("p")
    for _ in range(10):
        alone.publish(peer, say(alone, "s"))
    alone.settle_down()
    alone.clock.pass_(2)
    for _ in range(3):
        alone.publish(peer, say(alone, "s"))
    alone.settle_down()
    alone.clock.pass_(0.5)
    assert alone.engine.upkeep.expire() == 10
    stale, kept, end, beyond = (alone.replay(peer, "s", after) for after in (4, 10, 13, 14))
    alone.settle_down()
    assert peer.refusals[stale][:2] == ["gap", "11"]
    assert [seq for seq, _ in peer.replayed[kept][0]] == [11, 12, 13]
    assert peer.replayed[end] == ([], 13)
    assert peer.refusals[beyond][0] == "epoch"
    journal.close()


def test_fault25_retention_runs_under_load_and_takes_nothing_that_somebody_needs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal, retention_ms=50)
    publisher, consumer, sleeper = alone.connect("p"), alone.connect("c"), alone.connect("slow")
    alone.subscribe(consumer, WORK)
    alone.subscribe(sleeper, Subscription("slow", ("message.received",), ack_wait_ms=HOUR_MS))
    needed = envelope("p", "needed", new_id(alone.clock.wall_ms), "message.received")
    alone.publish(publisher, needed)
    alone.settle_down()
    ((held, *_),) = alone.taken(sleeper)
    publisher.receipts.clear()
    seqs: dict[str, int] = {}
    gone = published = 0
    for _ in range(150):
        calls = {}
        for number in range(50):
            session = f"s{number % 10}"
            calls[alone.publish(publisher, say(alone, session))] = session
        alone.turn()
        for rid, ((seq, _duplicate),) in publisher.receipts.items():
            seqs[calls[rid]] = seqs.get(calls[rid], 0) + 1
            assert seq == seqs[calls[rid]], "dense, whatever retention does"
        publisher.receipts.clear()
        published += 50
        for _ in range(6):
            if given := alone.taken(consumer):
                alone.ack(consumer, "work", [offset for offset, *_ in given])
            alone.clock.pass_(0.003)
            alone.turn()
        if published == 4_000:
            # One that is never settled holds retention up, and says so by its age; now it is settled.
            assert journal.row(held) is not None
            alone.ack(sleeper, "slow", [held])
        gone += alone.engine.upkeep.expire()
    for _ in range(200):
        alone.clock.pass_(0.1)
        alone.turn()
        if given := alone.taken(consumer):
            alone.ack(consumer, "work", [offset for offset, *_ in given])
        gone += alone.engine.upkeep.expire()
    counts = journal.counts()
    assert journal.last_offset() == published + 1
    assert counts["messages"] == published + 1 - gone
    assert counts["messages"] < 200
    ((settled,),) = journal._db.execute("SELECT count(*) FROM settled")
    assert settled < 500, "what is said about messages goes with them"
    assert journal.sizes()[1] < 32 << 20
    assert list(journal._db.execute("PRAGMA quick_check")) == [("ok",)]
    journal.close()
