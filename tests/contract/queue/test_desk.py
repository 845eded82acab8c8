"""The queue over its real database: restarts at every point, notices, leases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from tests.contract.queue.desk_play import Play, envelope, requested, task_due, texts, withdrawn

from microclaw.bus.api import Draft
from microclaw.bus.envelope import Envelope
from microclaw.bus.errors import EnvelopeError
from microclaw.bus.service import Poison
from microclaw.core.kinds import ReplyRequested, RunFinished, RunGranted
from microclaw.queue import desk as desk_module
from microclaw.queue.serve import Queue


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def test_messages_go_out_as_one_grant_with_their_order_and_facts(play: Play) -> None:
    [grant] = play.take(requested("fam", "one", "two", is_main=True))
    assert texts(grant) == ["one", "two"]
    assert (grant.group, grant.chat, grant.is_main, grant.attempt) == ("fam", "console:fam", True, 1)
    assert play.now < grant.expires_ms <= play.now + desk_module.START_S_MAX * 1000
    assert play.take(requested("fam", "three")) == []
    [second] = play.ends(grant)
    assert texts(second) == ["three"]
    assert second.run_id != grant.run_id


def test_a_repeated_delivery_has_no_second_effect(play: Play) -> None:
    first = requested("fam", "one")
    [grant] = play.take(first)
    assert play.take(first) == []
    end = play.end_of(grant)
    assert play.take(end) == []
    assert play.take(end) == []
    assert len(play.granted()) == 1


def test_fields_that_this_version_does_not_know_reach_the_sandbox(play: Play) -> None:
    raw = {"kind": "run.requested", "group": "fam", "chat": "console:fam", "is_main": False,
           "messages": [{"id": "1", "sender_name": "A", "sent_ms": 1, "text": "t", "mood": "sunny"}]}
    play.desk.requested(envelope(msgspec.msgpack.encode(raw), "group:fam"))
    [draft] = play.desk.outbox.pending()
    assert isinstance(draft.payload, bytes)
    assert msgspec.msgpack.decode(draft.payload)["messages"] == raw["messages"]


def test_a_run_that_fails_five_retries_long_is_told_and_kept_across_restarts(play: Play) -> None:
    began = play.now
    starts = []
    [grant] = play.take(requested("fam", "one"))
    while True:
        starts.append(play.now - began)
        caused = play.ends(grant, ok=False, error="model is down")
        if caused:
            break
        play.start()
        caused = _until_grant(play)
        [grant] = caused
    assert starts == [0, 5_000, 15_000, 35_000, 75_000, 155_000]
    [notice] = caused
    assert isinstance(notice, ReplyRequested)
    assert (notice.chat, notice.origin) == ("console:fam", "notice")
    assert "model is down" not in notice.text, "no internals in a group"
    [failed] = play.desk.failed(10)
    assert (failed.group, failed.state, failed.error, failed.attempt) == ("fam", "failed", "model is down", 6)
    assert [row.state for row in play.desk.waiting(10)] == ["kept"]
    play.start()
    play.until(600_000)
    assert len(play.granted()) == 6
    [again] = play.take(requested("fam", "two"))
    assert texts(again) == ["one", "two"]
    assert again.attempt == 1


def _until_grant(play: Play) -> list[Any]:
    for _ in range(200):
        if caused := play.until(1_000):
            return caused
    raise AssertionError("no retry came")


def test_what_cannot_get_better_is_told_at_once_and_the_owner_learns_why(play: Play) -> None:
    [grant] = play.take(requested("main", "one", is_main=True))
    [notice] = play.ends(grant, ok=False, retryable=False, error="401: the key is wrong")
    assert "401: the key is wrong" in notice.text
    assert "\n" not in notice.text
    assert play.until(400_000) == []
    assert play.troubles


def test_what_waits_for_a_sandbox_is_told_once_over_restarts_and_answered_when_there_is_one(play: Play) -> None:
    play.desk.owner_chat = "console:main"
    [grant] = play.take(requested("fam", "one"))
    for _ in range(12):
        assert not [each for each in play.ends(grant, ok=False, retryable=False, waiting=True, error="no Docker")
                    if isinstance(each, RunGranted)]
        play.start()
        play.desk.owner_chat = "console:main"
        [grant] = _until_grant(play)
        assert texts(grant) == ["one"]
    [here, owner] = play.notices()
    assert (here.chat, owner.chat) == ("console:fam", "console:main")
    assert "need not write again" in here.text and "no Docker" not in here.text
    assert "no Docker" in owner.text and "yet" in owner.text
    assert play.troubles == [], "`status` shows what waits as long as it does"
    assert play.ends(grant) == []
    assert play.desk.waiting(10) == ()


def test_a_task_waits_for_a_sandbox_over_restarts_as_one_run_and_is_told_once(play: Play) -> None:
    play.desk.owner_chat = "console:main"
    [grant] = play.take(task_due("fam", "t1"))
    began = play.now
    looks = []
    for _ in range(8):
        looks.append(play.now - began)
        told = play.ends(grant, ok=False, retryable=False, waiting=True, error="no Docker")
        assert not any(isinstance(each, RunGranted) for each in told)
        [row] = play.desk.waiting(10)
        assert (row.group, row.state, row.error) == ("fam", "backing off", "no Docker")
        play.start()
        play.desk.owner_chat = "console:main"
        assert play.take(task_due("fam", "t1")) == [], "the fire is one"
        [again] = _until_grant(play)
        assert (again.run_id, again.attempt, again.task) == (grant.run_id, 1, grant.task)
    assert looks == [0, 5_000, 15_000, 35_000, 75_000, 155_000, 235_000, 315_000]
    [here, owner] = play.notices()
    assert "scheduled task" in here.text and "no Docker" not in here.text
    assert "no Docker" in owner.text and "waits" in owner.text
    assert play.desk.failed(10) == ()
    assert play.ends(grant) == []
    assert (play.desk.waiting(10), play.desk.running(10), play.desk.failed(10)) == ((), (), ())
    play.start()
    assert play.until(400_000) == []


def test_a_task_that_waits_no_longer_when_it_is_withdrawn_ends_in_its_log(play: Play) -> None:
    [grant] = play.take(task_due("fam", "t1"))
    play.ends(grant, ok=False, waiting=True)
    [again] = play.take(task_due("fam", "t2"))
    play.ends(again, ok=False, waiting=True)
    play.start()
    word = withdrawn("fam", "t1")
    [end] = play.take(word)
    assert isinstance(end, RunFinished)
    assert (end.run_id, end.ok, end.withdrawn) == (grant.run_id, True, True)
    assert play.take(word) == []
    [other] = play.until(5_000)
    assert other.task.task_id == "t2"


def test_a_task_withdrawn_in_the_middle_of_a_look_for_a_sandbox_does_not_wait_after_a_restart(play: Play) -> None:
    [grant] = play.take(task_due("fam", "t1"))
    assert play.take(withdrawn("fam", "t1")) == [], "what runs may end"
    play.start()
    [end] = play.ends(grant, ok=False, waiting=True)
    assert isinstance(end, RunFinished) and end.withdrawn
    assert (play.desk.waiting(10), play.desk.failed(10)) == ((), ())
    assert play.until(400_000) == []


def test_what_fails_for_good_in_a_group_is_told_there_and_to_the_owner_with_the_cause_once_an_hour(play: Play) -> None:
    play.desk.owner_chat = "console:main"

    def fails(group: str, error: str) -> list[str]:
        [grant] = play.take(requested(group, "hello"))
        notices = play.ends(grant, ok=False, retryable=False, error=error)
        assert notices[0].chat == f"console:{group}"
        assert error not in notices[0].text
        assert all((each.chat, each.origin) == ("console:main", "notice") for each in notices[1:])
        return [each.text for each in notices[1:]]

    [told] = fails("fam", "the key is wrong")
    assert "fam" in told and "the key is wrong" in told
    assert fails("work", "the key is wrong") == []
    assert len(fails("work", "no engine")) == 1
    play.until(3_600_000)
    assert len(fails("fam", "the key is wrong")) == 1


def test_a_run_seen_in_the_chat_is_neither_tried_again_nor_excused(play: Play) -> None:
    [grant] = play.take(requested("fam", "one"))
    assert play.ends(grant, ok=False, visible=True, error="crashed") == []
    play.start()
    assert play.until(400_000) == []
    assert [row.state for row in play.desk.failed(10)] == ["cut"]
    assert play.desk.waiting(10) == ()


def test_one_fire_is_one_run_for_ever(play: Play) -> None:
    [grant] = play.take(task_due("fam", "t1"))
    assert grant.task is not None
    assert (grant.task.prompt, grant.task.due_ms) == ("water the plants", 7)
    assert play.take(task_due("fam", "t1")) == []
    play.start()
    assert play.take(task_due("fam", "t1")) == []
    assert play.ends(grant, ok=False, error="no") == []
    assert play.take(task_due("fam", "t1")) == []
    play.start()
    assert play.until(400_000) == []
    assert len(play.granted()) == 1
    assert play.desk.waiting(10) == ()


def test_a_granted_run_is_not_granted_again_by_a_restart(play: Play) -> None:
    play.take(requested("fam", "one"))
    for _ in range(3):
        play.start()
        play.until(60_000)
    assert len(play.granted()) == 1


def test_a_run_that_nobody_ends_is_lost_told_and_tried_again(play: Play) -> None:
    [grant] = play.take(requested("fam", "one"))
    late = play.end_of(grant)
    assert play.until((desk_module.START_S_MAX + 1800) * 1000) == []
    lost, second = play.until(120_000)
    assert isinstance(lost, RunFinished)
    assert (lost.run_id, lost.ok) == (grant.run_id, False)
    assert isinstance(second, RunGranted)
    assert (texts(second), second.attempt) == (["one"], 2)
    assert play.take(late) == [], "the older run has no say any more"
    assert [row.run_id for row in play.desk.running(10)] == [second.run_id]


def test_a_lost_run_that_ends_well_before_its_retry_counts(play: Play) -> None:
    [grant] = play.take(requested("fam", "one"))
    while not (caused := play.until(1_000)):
        pass
    assert [type(payload) for payload in caused] == [RunFinished]
    play.start()
    assert play.ends(grant) == []
    play.start()
    assert play.until(400_000) == []
    assert play.desk.waiting(10) == ()


def test_a_lost_task_ends_in_its_log(play: Play) -> None:
    [grant] = play.take(task_due("fam", "t1"))
    [lost] = play.until((desk_module.START_S_MAX + 1800 + 120) * 1000)
    assert isinstance(lost, RunFinished)
    assert (lost.run_id, lost.ok, lost.retryable) == (grant.run_id, False, False)


def test_what_can_never_run_is_poison(play: Play) -> None:
    for group in ("../outside", "a/b", "", "global", "x" * 65):
        with pytest.raises(Poison):
            play.take(requested(group, "one"))
    with pytest.raises(EnvelopeError):
        play.take(envelope({"kind": "run.requested", "group": 7}, "group:x"))  # type: ignore[arg-type]
    assert play.desk.waiting(10) == ()


def test_a_failing_commit_takes_the_decision_back(play: Play) -> None:
    assert play.engine is not None
    given = requested("fam", "one")
    with play.engine.begin() as db:
        db.execute(text("CREATE TRIGGER full BEFORE INSERT ON queue_runs BEGIN SELECT RAISE(ABORT, 'disk full'); END"))
    with pytest.raises(Exception, match="disk full"):
        play.take(given)
    assert play.desk.dispatch.running == []
    with play.engine.begin() as db:
        db.execute(text("DROP TRIGGER full"))
    [grant] = play.take(given)
    assert texts(grant) == ["one"]


def test_the_owner_is_told_though_the_commit_failed_at_first(play: Play) -> None:
    assert play.engine is not None
    play.desk.owner_chat = "console:main"
    [grant] = play.take(requested("fam", "one"))
    with play.engine.begin() as db:
        db.execute(text("CREATE TRIGGER full BEFORE INSERT ON queue_inbox BEGIN SELECT RAISE(ABORT, 'disk full'); END"))
    end = play.end_of(grant, ok=False, retryable=False, error="no key")
    with pytest.raises(Exception, match="disk full"):
        play.take(end)
    with play.engine.begin() as db:
        db.execute(text("DROP TRIGGER full"))
    assert [notice.chat for notice in play.take(end)] == ["console:fam", "console:main"]


async def test_what_is_due_no_more_once_the_grant_before_it_is_sent_does_not_happen(tmp_path: Path) -> None:
    """Two retries are due; while the first one's grant is on its way to the broker, the other group's run, which a new
    message started meanwhile, ends well."""
    play = Play(tmp_path, max_concurrent=3)
    for group in ("ann", "bob"):
        [grant] = play.take(requested(group, "one"))
        play.ends(grant, ok=False, error="model is down")
    [again] = play.take(requested("bob", "two"))
    sent = asyncio.Event()

    class Bus:
        async def publish(self, *drafts: Draft) -> None:
            if not sent.is_set():
                play.take(play.end_of(again))
                sent.set()

    service = SimpleNamespace(bus=Bus(), facts={}, trouble=play.troubles.append)
    queue = Queue(service, play.desk)  # type: ignore[arg-type]
    play.now += 5_000
    keeping = asyncio.create_task(queue.keep_time())
    await asyncio.wait({keeping, asyncio.create_task(sent.wait())}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert sent.is_set() and not keeping.done(), "the service goes on"
    keeping.cancel()
    assert play.desk.waiting(9) == ()


def test_the_order_of_the_line_survives_a_restart(tmp_path: Path) -> None:
    play = Play(tmp_path, max_concurrent=1)
    [first] = play.take(requested("a", "1"))
    for group in ("d", "b", "c"):
        play.take(requested(group, "1"))
    play.start()
    order = []
    grants = play.ends(first)
    while grants:
        order.append(grants[0].group)
        play.start()
        grants = play.ends(grants[0])
    assert order == ["d", "b", "c"]


class Bus:
    """Gives again what was not acknowledged, to a queue that dies at random before or after a commit."""

    def __init__(self, play: Play, seed: int) -> None:
        self.play = play
        self.rng = random.Random(seed)
        self.open: dict[str, RunGranted] = {}
        self.seen: set[bytes] = set()
        self.done: list[str] = []

    def deliver(self, given: Envelope) -> None:
        while (fate := self.rng.random()) < 0.3:
            if fate < 0.15:
                with _DyingCommit(self.play, self.rng):
                    self.play.take(given)
            self.play.start()
        self.play.take(given)
        self.look()

    def look(self) -> None:
        """Take new grants, as the sandbox would."""
        for message_id in list(self.play.published.keys() - self.seen):
            self.seen.add(message_id)
            payload = self.play.published[message_id]
            if isinstance(payload, RunGranted):
                assert payload.group not in self.open, "two runs of a group at once"
                self.open[payload.group] = payload
        assert len(self.open) <= self.play.max_concurrent

    def finish_one(self, ok: bool) -> None:
        grant = self.open.pop(self.rng.choice(sorted(self.open)))
        if ok:
            self.done += texts(grant)
        self.deliver(self.play.end_of(grant, ok=ok, error="" if ok else "boom"))

    def finish_all(self) -> None:
        while self.open or self.play.desk.waiting(10):
            if self.open:
                self.finish_one(ok=True)
            else:
                self.play.until(1_000)
                self.look()


@pytest.mark.parametrize("seed", range(8))
def test_killed_after_any_commit_each_message_is_in_exactly_one_good_run(seed: int, tmp_path: Path) -> None:
    bus = Bus(Play(tmp_path, max_concurrent=2), seed)
    sent: list[str] = []
    for step in range(60):
        if bus.rng.random() < 0.5 or not bus.open:
            group = bus.rng.choice("abcd")
            sent.append(f"{group}{step}")
            bus.deliver(requested(group, sent[-1]))
        else:
            bus.finish_one(ok=bus.rng.random() < 0.7)
    bus.finish_all()
    assert sorted(bus.done) == sorted(sent)
    for group in "abcd":
        assert [name for name in bus.done if name[0] == group] == [name for name in sent if name[0] == group]


class _DyingCommit:
    """The process dies in the next commit: before it took place or right after."""

    def __init__(self, play: Play, rng: random.Random) -> None:
        self._engine = play.engine
        self._before = rng.random() < 0.5
        self._listener: Callable[[Any], None] | None = None

    def __enter__(self) -> None:
        if self._before:
            def die(_connection: Any) -> None:
                raise KeyboardInterrupt("killed before the commit")

            self._listener = die
            sqlalchemy_event.listen(self._engine, "commit", die)

    def __exit__(self, kind: type[BaseException] | None, *_rest: Any) -> bool:
        if self._listener is not None:
            sqlalchemy_event.remove(self._engine, "commit", self._listener)
        return kind is KeyboardInterrupt
