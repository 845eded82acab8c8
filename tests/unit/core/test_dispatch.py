"""The queue's decisions as transcripts, and its promises under random events."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.core.dispatch import (
    RETRY_MS,
    Command,
    Dispatch,
    Doomed,
    Drain,
    Dropped,
    Ended,
    Event,
    Finished,
    Grant,
    Ignored,
    IllegalTransition,
    LateDone,
    LeaseOver,
    Notice,
    Outcome,
    Resume,
    TaskDue,
    Wanted,
    Withdrawn,
)
from microclaw.core.lanes import FIRES_IN_A_ROW_MAX, RUN_MESSAGES_MAX, Fire, Item, LaneState, Run


class Desk:
    """Plays a queue by hand: short words in, what started out."""

    def __init__(self, max_concurrent: int = 2, **bounds: Any) -> None:
        self.dispatch = Dispatch(max_concurrent, **bounds)
        self.now = 0
        self.numbers = 0
        self.started: list[str] = []
        self.start_times: list[int] = []
        self.runs: dict[str, Run] = {}
        self.notices: list[Notice] = []
        self.commands: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        commands = self.dispatch.handle(event, self.now, self._run_id)
        for command in commands:
            if isinstance(command, Grant):
                run = command.run
                self.runs[run.group] = run
                self.started.append(f"T:{run.fire.task_id}" if run.fire else f"M:{run.group}")
                self.start_times.append(self.now)
            elif isinstance(command, Notice):
                self.notices.append(command)
        self.commands += commands
        return commands

    def _run_id(self, group: str, fire: Fire | None) -> str:
        return f"task {fire.key}" if fire else f"{group} {len(self.started) + 1} at {self.now}"

    def message(self, group: str, *, size: int = 10, count: int = 1, chat: str = "") -> list[Command]:
        items = []
        for _ in range(count):
            self.numbers += 1
            items.append(Item(self.numbers, chat or f"chat:{group}", size_bytes=size))
        return self.handle(Wanted(group, tuple(items)))

    def task(self, group: str, task_id: str, due_ms: int = 0) -> list[Command]:
        self.numbers += 1
        return self.handle(TaskDue(group, Fire(self.numbers, f"chat:{group}", task_id, due_ms)))

    def ends(self, group: str, **how: Any) -> list[Command]:
        run = self.runs[group]
        return self.handle(Finished(group, run.run_id, **({"ok": True} | how)))

    def fails(self, group: str, **how: Any) -> list[Command]:
        return self.ends(group, ok=False, error="boom", **how)

    def until(self, ms: int, *, failing: bool = False) -> None:
        """Let time pass; retries start when due, and fail at once if `failing`."""
        while (due := self.dispatch.next_retry_ms()) is not None and due <= ms:
            self.now = max(self.now, due)
            for retry in self.dispatch.retries_due(self.now):
                self.handle(retry)
                if failing and self.dispatch.lanes[retry.group].run is not None:
                    self.fails(retry.group)
        self.now = max(self.now, ms)


# --- order and places ---------------------------------------------------------------------------------------------


def test_a_group_has_one_run_at_a_time() -> None:
    desk = Desk()
    desk.message("a")
    desk.message("a")
    assert desk.started == ["M:a"]
    desk.ends("a")
    assert desk.started == ["M:a", "M:a"]
    assert [item.number for item in desk.runs["a"].items] == [2]


def test_no_more_runs_than_places() -> None:
    desk = Desk()
    for group in ("g1", "g2", "g3"):
        desk.message(group)
    assert desk.started == ["M:g1", "M:g2"]
    desk.ends("g1")
    assert desk.started == ["M:g1", "M:g2", "M:g3"]


def test_waiting_groups_are_served_in_order_of_arrival_and_stand_in_line_once() -> None:
    desk = Desk()
    for group in ("a", "b", "c", "d", "e", "c"):
        desk.message(group)
    for group in ("b", "a", "c"):
        desk.ends(group)
    assert desk.started == ["M:a", "M:b", "M:c", "M:d", "M:e"]
    assert len(desk.runs["c"].items) == 2


def test_a_busy_group_goes_behind_those_who_wait() -> None:
    desk = Desk()
    for group in ("a", "b", "c", "a"):
        desk.message(group)
    desk.ends("a")
    assert desk.started[-1] == "M:c"
    desk.ends("b")
    assert desk.started[-1] == "M:a"


def test_tasks_come_before_messages_of_a_group() -> None:
    desk = Desk()
    desk.message("a")
    desk.task("a", "t1")
    desk.task("a", "t2")
    desk.message("a")
    for _ in range(3):
        desk.ends("a")
    assert desk.started == ["M:a", "T:t1", "T:t2", "M:a"]


def test_tasks_that_never_end_do_not_keep_messages_waiting_for_ever() -> None:
    desk = Desk()
    desk.message("a")
    desk.message("a")
    for number in range(3 * FIRES_IN_A_ROW_MAX):
        desk.task("a", f"t{number}")
    for _ in range(2 * FIRES_IN_A_ROW_MAX):
        desk.ends("a")
    assert [name for name in desk.started[1:] if name == "M:a"] == ["M:a"]
    assert desk.started.index("M:a", 1) == 1 + FIRES_IN_A_ROW_MAX
    desk.until(600_000)
    while desk.dispatch.running:
        desk.ends("a")
    assert desk.started.count("M:a") == 2, "without a message that waits, tasks are not counted"


def test_a_waiting_group_runs_its_task_before_its_messages() -> None:
    desk = Desk()
    for group in ("a", "b", "c"):
        desk.message(group)
    desk.task("c", "tc")
    desk.ends("a")
    desk.ends("c")
    assert desk.started == ["M:a", "M:b", "T:tc", "M:c"]


def test_one_fire_of_a_task_is_one_run() -> None:
    desk = Desk()
    desk.task("a", "t1")
    assert isinstance(desk.task("a", "t1")[0], Ignored)
    desk.task("a", "t2")
    assert isinstance(desk.task("a", "t2")[0], Ignored)
    desk.task("a", "t1", due_ms=60_000)
    for _ in range(3):
        desk.ends("a")
    assert desk.started == ["T:t1", "T:t2", "T:t1"]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_draining_starts_nothing_and_leaves_what_runs() -> None:
    desk = Desk()
    desk.message("a")
    desk.task("a", "t1")
    desk.message("b")
    desk.message("c")
    desk.handle(Drain())
    desk.task("z", "tz")
    desk.message("z")
    desk.ends("a")
    desk.ends("b")
    assert desk.started == ["M:a", "M:b"]
    desk.handle(Resume())
    assert desk.started == ["M:a", "M:b", "M:c", "T:tz"]


def test_a_run_takes_all_waiting_messages_up_to_its_bounds() -> None:
    desk = Desk(run_bytes_max=100)
    desk.message("a", size=500)
    assert [item.number for item in desk.runs["a"].items] == [1]
    desk.message("a", size=40, count=5)
    taken = []
    for _ in range(3):
        desk.ends("a")
        taken.append([item.number for item in desk.runs["a"].items])
    assert taken == [[2, 3], [4, 5], [6]]
    desk.ends("a")
    desk.message("b", size=0, count=RUN_MESSAGES_MAX + 1)
    assert len(desk.runs["b"].items) == RUN_MESSAGES_MAX


def test_pain06_a_run_answers_in_one_chat_though_a_group_has_several() -> None:
    desk = Desk()
    desk.message("a", chat="mail:1")
    for chat in ("mail:2", "mail:1", "mail:2", "mail:3"):
        desk.message("a", chat=chat)
    seen = []
    for _ in range(4):
        run = desk.runs["a"]
        seen.append((run.chat, [item.number for item in run.items]))
        desk.ends("a")
    assert seen == [("mail:1", [1]), ("mail:2", [2, 4]), ("mail:1", [3]), ("mail:3", [5])]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_what_was_given_up_in_one_chat_does_not_stop_the_groups_others() -> None:
    desk = Desk()
    desk.message("a", chat="mail:1")
    desk.message("a", chat="mail:2")
    desk.fails("a", retryable=False)
    assert desk.runs["a"].chat == "mail:2"
    desk.ends("a")
    assert desk.dispatch.state("a") is LaneState.KEPT
    desk.message("a", chat="mail:3")
    assert desk.runs["a"].chat == "mail:3"
    desk.ends("a")
    desk.message("a", chat="mail:1")
    assert [item.number for item in desk.runs["a"].items] == [1, 4]


# --- failure ------------------------------------------------------------------------------------------------------


def test_of_retries_due_at_one_moment_the_group_that_waits_longest_goes_first() -> None:
    desk = Desk(max_concurrent=2)
    for group in ("b", "a"):
        desk.message(group)
    for group in ("b", "a"):
        desk.fails(group)
    assert [retry.group for retry in desk.dispatch.retries_due(5_000)] == ["b", "a"]


def test_a_failed_run_is_tried_again_five_times_and_then_told() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.until(400_000, failing=True)
    assert desk.start_times == [0, 5_000, 15_000, 35_000, 75_000, 155_000]
    assert [(notice.error, notice.again) for notice in desk.notices] == [("boom", True)]
    assert desk.dispatch.state("a") is LaneState.KEPT
    assert [command.outcome for command in desk.commands if isinstance(command, Ended)] == \
        [Outcome.RETRYING] * 5 + [Outcome.FAILED]


def test_after_the_notice_the_next_message_takes_the_kept_ones_along_and_counts_anew() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.until(400_000, failing=True)
    desk.message("a")
    assert [item.number for item in desk.runs["a"].items] == [1, 2]
    assert desk.runs["a"].attempt == 1
    desk.fails("a")
    desk.until(405_000)
    assert desk.start_times[6:] == [400_000, 405_000]
    assert desk.runs["a"].attempt == 2


def test_a_success_resets_the_back_off() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.until(5_000)
    desk.fails("a")
    desk.until(15_000)
    desk.ends("a")
    desk.until(60_000)
    desk.message("a")
    desk.fails("a")
    desk.until(65_000)
    desk.ends("a")
    desk.until(400_000)
    assert desk.start_times == [0, 5_000, 15_000, 60_000, 65_000]


def test_messages_of_a_failed_run_go_back_in_front() -> None:
    desk = Desk()
    desk.message("a")
    desk.message("a")
    desk.fails("a")
    assert [item.number for item in desk.runs["a"].items] == [1, 2]


def test_a_message_during_back_off_starts_at_once_besides_the_retries() -> None:
    desk = Desk()
    desk.message("a")
    desk.now = 5
    desk.message("a")
    desk.fails("a")
    desk.fails("a")
    desk.until(400_000, failing=True)
    assert desk.start_times == [0, 5, 5_005, 15_005, 35_005, 75_005, 155_005]
    assert len(desk.notices) == 1


def test_what_did_not_fit_into_a_failing_run_does_not_start_it_again_at_once() -> None:
    desk = Desk(run_bytes_max=10)
    desk.message("a", size=10, count=3)
    desk.fails("a")
    assert desk.dispatch.state("a") is LaneState.BACKING_OFF
    desk.until(400_000, failing=True)
    assert desk.start_times == [0, 5_000, 15_000, 35_000, 75_000, 155_000]


def test_a_run_under_way_when_its_retry_is_due_is_that_retry() -> None:
    desk = Desk(run_bytes_max=10)
    desk.message("a", size=10, count=2)
    desk.fails("a")
    desk.now = 4_900
    desk.message("a", size=10)
    desk.until(5_100)
    desk.fails("a")
    assert desk.dispatch.state("a") is LaneState.BACKING_OFF
    desk.until(400_000, failing=True)
    assert desk.start_times == [0, 4_900, 15_100, 35_100, 75_100, 155_100]


def test_a_retry_that_finds_no_place_waits_in_line() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.message("b")
    desk.message("c")
    desk.until(5_000)
    assert desk.dispatch.state("a") is LaneState.WAITING
    desk.now = 6_005
    desk.ends("b")
    assert (desk.started[-1], desk.start_times[-1]) == ("M:a", 6_005)


def test_a_task_runs_while_messages_back_off_and_does_not_start_them() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.task("a", "t1")
    desk.ends("a")
    assert desk.started == ["M:a", "T:t1"]
    desk.until(5_000)
    assert desk.started == ["M:a", "T:t1", "M:a"]


def test_a_retry_due_while_a_task_runs_comes_after_it() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a")
    desk.task("a", "t1")
    desk.until(6_000)
    assert desk.started == ["M:a", "T:t1"]
    desk.ends("a")
    assert desk.started == ["M:a", "T:t1", "M:a"]


def test_a_failed_task_is_not_tried_again() -> None:
    desk = Desk()
    desk.task("t", "t")
    assert desk.fails("t") == [Ended(desk.runs["t"], Outcome.FAILED, "boom")]
    desk.until(400_000)
    assert desk.started == ["T:t"]
    assert desk.notices == []


def test_a_run_that_was_seen_in_the_chat_is_not_tried_again() -> None:
    desk = Desk()
    desk.message("a")
    assert desk.fails("a", visible=True) == [Ended(desk.runs["a"], Outcome.CUT, "boom")]
    desk.until(400_000)
    assert desk.started == ["M:a"]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_what_cannot_get_better_is_told_at_once_and_kept() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a", retryable=False)
    desk.until(400_000)
    assert desk.started == ["M:a"]
    assert [(notice.error, notice.again) for notice in desk.notices] == [("boom", False)]
    assert desk.dispatch.state("a") is LaneState.KEPT
    desk.message("a")
    assert [item.number for item in desk.runs["a"].items] == [1, 2]


# --- nothing to run in -----------------------------------------------------------------------------------------------


def test_what_found_nothing_to_run_in_waits_for_as_long_as_it_takes_and_is_told_once() -> None:
    desk = Desk()
    desk.message("a")
    for _ in range(40):
        desk.fails("a", retryable=False, waiting=True)
        assert desk.dispatch.state("a") is LaneState.BACKING_OFF
        desk.until(desk.dispatch.next_retry_ms() or 0)
    assert desk.start_times[:7] == [0, 5_000, 15_000, 35_000, 75_000, 155_000, 235_000]
    assert desk.start_times[-1] == 155_000 + 35 * 80_000
    assert [(notice.run.run_id, notice.waits) for notice in desk.notices] == [("a 3 at 15000", True)]
    assert desk.runs["a"].attempt == 1, "nothing was tried"
    desk.ends("a")
    assert (desk.dispatch.state("a"), desk.dispatch.next_retry_ms()) == (LaneState.IDLE, None)


def test_a_wait_that_was_short_is_told_to_nobody_and_the_next_one_counts_anew() -> None:
    desk = Desk()
    for _ in range(3):
        desk.message("a")
        for _ in range(2):
            desk.fails("a", waiting=True)
            desk.until(desk.dispatch.next_retry_ms() or 0)
        desk.ends("a")
    assert desk.notices == []


def test_a_message_that_comes_while_its_group_waits_starts_at_once_and_changes_no_pause() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a", waiting=True)
    desk.now = 1_000
    desk.message("a")
    assert [item.number for item in desk.runs["a"].items] == [1, 2]
    desk.fails("a", waiting=True)
    assert (desk.dispatch.next_retry_ms(), len(desk.dispatch.line)) == (5_000, 0)


def test_after_a_wait_the_retries_of_what_was_tried_are_all_there() -> None:
    desk = Desk()
    desk.message("a")
    for _ in range(10):
        desk.fails("a", waiting=True)
        desk.until(desk.dispatch.next_retry_ms() or 0)
    began = desk.now
    desk.fails("a")
    desk.until(began + 400_000, failing=True)
    assert [at - began for at in desk.start_times[-6:]] == [0, 5_000, 15_000, 35_000, 75_000, 155_000]
    assert [notice.waits for notice in desk.notices] == [True, False]


def test_a_fire_that_found_nothing_to_run_in_waits_as_the_same_run_and_is_told_once() -> None:
    desk = Desk()
    desk.task("a", "t1")
    for _ in range(40):
        ended = desk.fails("a", retryable=False, waiting=True)[0]
        assert ended == Ended(desk.runs["a"], Outcome.RETRYING, "boom")
        assert desk.dispatch.state("a") is LaneState.BACKING_OFF
        assert isinstance(desk.task("a", "t1")[0], Ignored), "the fire is one"
        desk.until(desk.dispatch.next_retry_ms() or 0)
    assert desk.start_times[:7] == [0, 5_000, 15_000, 35_000, 75_000, 155_000, 235_000]
    assert [notice.waits for notice in desk.notices] == [True]
    assert {(run.run_id, run.attempt) for run in [desk.runs["a"]]} == {("task ('t1', 0)", 1)}
    desk.ends("a")
    assert (desk.dispatch.state("a"), desk.dispatch.next_retry_ms()) == (LaneState.IDLE, None)
    assert set(desk.started) == {"T:t1"}


def test_a_fire_that_waits_comes_before_newer_ones_and_none_of_them_is_lost() -> None:
    desk = Desk()
    desk.task("a", "t1")
    desk.fails("a", waiting=True)
    desk.now = 1_000
    desk.task("a", "t2")
    assert desk.started == ["T:t1", "T:t1"]
    desk.fails("a", waiting=True)
    assert desk.dispatch.next_retry_ms() == 5_000, "a look between changes no pause"
    desk.until(5_000)
    desk.ends("a")
    desk.ends("a")
    assert desk.started[2:] == ["T:t1", "T:t2"]


def test_messages_and_fires_that_wait_wake_each_other() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a", waiting=True)
    desk.task("a", "t1")
    desk.fails("a", waiting=True)
    desk.task("a", "t2")
    desk.ends("a")
    desk.ends("a")
    assert desk.started == ["M:a", "T:t1", "T:t1", "T:t2", "M:a"], "all at 0 s: something runs again"
    desk.ends("a")
    desk.task("a", "t3")
    desk.fails("a", waiting=True)
    desk.message("a")
    desk.ends("a")
    desk.ends("a")
    assert desk.started[5:] == ["T:t3", "M:a", "T:t3"]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_what_a_fires_wait_ends_with_does_not_try_messages_that_were_given_up() -> None:
    desk = Desk()
    desk.message("a")
    desk.fails("a", retryable=False)
    desk.task("a", "t1")
    desk.fails("a", waiting=True)
    desk.until(5_000)
    desk.ends("a")
    assert desk.started == ["M:a", "T:t1", "T:t1"]
    assert desk.dispatch.state("a") is LaneState.KEPT


def test_a_fire_that_said_something_before_there_was_nothing_to_run_in_is_over() -> None:
    desk = Desk()
    desk.task("a", "t1")
    assert desk.fails("a", visible=True, waiting=True) == [Ended(desk.runs["a"], Outcome.FAILED, "boom")]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_a_withdrawn_fire_waits_no_longer_and_one_under_way_may_end() -> None:
    desk = Desk()
    desk.task("a", "t1")
    desk.fails("a", waiting=True)
    [dropped] = desk.handle(Withdrawn("a", "t1"))
    assert isinstance(dropped, Dropped) and dropped.fire.task_id == "t1"
    assert (desk.dispatch.state("a"), desk.dispatch.next_retry_ms()) == (LaneState.IDLE, None)
    desk.task("a", "t2")
    assert [type(command) for command in desk.handle(Withdrawn("a", "t2"))] == [Doomed]
    ended, gone = desk.fails("a", waiting=True)
    assert isinstance(ended, Ended) and ended.outcome is Outcome.WITHDRAWN and isinstance(gone, Dropped)
    desk.task("a", "t3")
    desk.handle(Withdrawn("a", "t3"))
    [ended] = desk.ends("a")
    assert isinstance(ended, Ended) and ended.outcome is Outcome.DONE, "what runs may end"
    assert isinstance(desk.handle(Withdrawn("a", "t3"))[0], Ignored)
    assert desk.dispatch.state("a") is LaneState.IDLE


# --- lost runs and fencing ----------------------------------------------------------------------------------------


def test_a_lost_run_is_tried_again_and_its_late_failure_is_ignored() -> None:
    desk = Desk()
    desk.message("a")
    lost = desk.runs["a"]
    ended = desk.handle(LeaseOver("a", lost.run_id, "lost"))
    assert ended == [Ended(lost, Outcome.RETRYING, "lost", lost=True)]
    assert isinstance(desk.handle(Finished("a", lost.run_id, ok=False))[0], Ignored)
    desk.until(5_000)
    assert desk.runs["a"].run_id != lost.run_id
    assert isinstance(desk.handle(Finished("a", lost.run_id, ok=True))[0], Ignored)
    assert desk.dispatch.state("a") is LaneState.RUNNING


@pytest.mark.parametrize("how", [{"ok": True}, {"ok": False, "visible": True}])
def test_a_lost_run_that_went_well_after_all_counts_while_nothing_else_started(how: dict[str, bool]) -> None:
    desk = Desk()
    desk.message("a", count=2)
    lost = desk.runs["a"]
    desk.handle(LeaseOver("a", lost.run_id, "lost"))
    late = desk.handle(Finished("a", lost.run_id, **how))
    assert isinstance(late[0], LateDone)
    assert [item.number for item in late[0].items] == [1, 2]
    desk.until(400_000)
    assert desk.started == ["M:a"]
    assert desk.dispatch.state("a") is LaneState.IDLE


def test_a_run_is_settled_once() -> None:
    desk = Desk()
    desk.message("a")
    desk.ends("a")
    assert isinstance(desk.ends("a")[0], Ignored)
    assert isinstance(desk.fails("a")[0], Ignored)


def test_events_that_do_not_fit_are_refused_with_what_was_expected() -> None:
    desk = Desk()
    desk.message("a")
    with pytest.raises(IllegalTransition) as lease:
        desk.handle(LeaseOver("a", "another", "lost"))
    assert lease.value.expected == "running another"
    assert "running" in lease.value.got
    desk.fails("a")
    for retry in desk.dispatch.retries_due(5_000):
        with pytest.raises(IllegalTransition):
            desk.handle(retry)


# --- promises under random events -----------------------------------------------------------------------------------


class Storm:
    """Random events on a desk, with every promise checked after each."""

    def __init__(self, seed: int, groups: int, places: int) -> None:
        self.rng = random.Random(seed)
        self.places = places
        self.desk = Desk(places, run_bytes_max=60)
        self.names = [f"g{number}" for number in range(groups)]
        self.sent: dict[str, list[int]] = {name: [] for name in self.names}
        self.done: dict[str, list[int]] = {name: [] for name in self.names}
        self.fired: Counter[str] = Counter()
        #: Of each task, fires that came to their end.
        self.ran: Counter[str] = Counter()
        self.withdrawn: set[str] = set()
        #: For each group in line: how often every other group started since.
        self.overtaken: dict[str, Counter[str]] = {}

    @property
    def running(self) -> list[str]:
        return [run.group for run in self.desk.dispatch.running]

    def watch(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Grant(run=run):
                    self.started(run)
                case Ended(run=run, outcome=Outcome.DONE | Outcome.CUT) if run.fire is None:
                    self.done[run.group] += [item.number for item in run.items]
                case Ended(run=run, outcome=Outcome.DONE | Outcome.FAILED) if run.fire is not None:
                    self.ran[run.fire.task_id] += 1
                case Dropped(fire=fire):
                    assert fire.task_id in self.withdrawn
                    self.ran[fire.task_id] += 1
                case LateDone(items=items):
                    self.done[items[0].chat.removeprefix("chat:")] += [item.number for item in items]
        running, line = self.running, self.desk.dispatch.line
        assert len(running) == len(set(running)) <= self.places
        assert len(line) == len(set(line))
        assert not set(line) & set(running)
        assert not line or self.desk.dispatch.draining or len(running) == self.places
        for name in self.overtaken.keys() - set(line):
            del self.overtaken[name]
        for name in line:
            self.overtaken.setdefault(name, Counter())

    def started(self, run: Run) -> None:
        self.overtaken.pop(run.group, None)
        for counts in self.overtaken.values():
            counts[run.group] += 1
            assert counts[run.group] <= 1, "a group overtook another one twice"
        assert run.fire is None or run.fire.task_id not in self.withdrawn, "it runs though it was withdrawn"

    def write(self, name: str) -> None:
        before = self.desk.numbers
        self.watch(self.desk.message(name, size=self.rng.choice([1, 30, 200]), count=self.rng.randrange(1, 4)))
        self.sent[name] += range(before + 1, self.desk.numbers + 1)

    def finish(self, group: str, kind: str) -> None:
        run = self.desk.runs[group]
        if kind == "lost":
            self.watch(self.desk.handle(LeaseOver(group, run.run_id, "lost")))
            if self.rng.random() < 0.5:
                self.watch(self.desk.handle(Finished(group, run.run_id, ok=True)))
            return
        how = {"ok": {}, "fail": {"ok": False}, "visible": {"ok": False, "visible": True},
               "never": {"ok": False, "retryable": False}, "nowhere": {"ok": False, "waiting": True}}[kind]
        for _ in range(2):
            self.watch(self.desk.ends(group, **how))

    def withdraw(self, task: str) -> None:
        self.withdrawn.add(task)
        self.watch(self.desk.handle(Withdrawn(task.split()[0], task)))

    def step(self) -> None:
        self.desk.now += self.rng.randrange(0, 4_000)
        for retry in self.desk.dispatch.retries_due(self.desk.now):
            self.watch(self.desk.handle(retry))
        choice, name = self.rng.random(), self.rng.choice(self.names)
        if choice < 0.4:
            self.write(name)
        elif choice < 0.5:
            task = f"{name} {self.desk.numbers}"
            self.fired[task] = 1
            self.watch(self.desk.task(name, task))
        elif choice < 0.53 and self.fired:
            self.withdraw(self.rng.choice(sorted(self.fired)))
        elif choice < 0.55:
            self.watch(self.desk.handle(Drain()))
        elif choice < 0.6:
            self.watch(self.desk.handle(Resume()))
        elif self.running:
            kind = self.rng.choice(["ok", "ok", "fail", "fail", "visible", "never", "nowhere", "lost"])
            self.finish(self.rng.choice(self.running), kind)

    def calm(self) -> None:
        """A last message for every group, and all goes well from now on."""
        self.watch(self.desk.handle(Resume()))
        for name in self.names:
            self.write(name)
        while self.running:
            self.finish(self.rng.choice(self.running), "ok")
        self.desk.until(self.desk.now + max(RETRY_MS))
        assert self.running == []


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), groups=st.integers(1, 8), places=st.integers(1, 4), steps=st.integers(1, 120))
def test_whatever_happens_nothing_is_lost_doubled_or_starved(seed: int, groups: int, places: int, steps: int) -> None:
    """At most one run of a group, never over the bound; each message in exactly one successful run, in order; a group
    in line starts before any other group starts twice; each fire comes to one end."""
    storm = Storm(seed, groups, places)
    for _ in range(steps):
        storm.step()
    storm.calm()
    assert storm.done == storm.sent
    assert storm.ran == storm.fired
