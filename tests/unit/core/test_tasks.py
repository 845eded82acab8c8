"""Task rules: who, when, and what is kept of a run."""

from __future__ import annotations

import random
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from microclaw.core import tasks
from microclaw.core.schedule import ScheduleError
from microclaw.core.tasks import Status, Task, TaskStateError

UTC = ZoneInfo("UTC")


def task(**facts: object) -> Task:
    known: dict[str, object] = {
        "id": "t", "group": "fam", "chat": "console:fam", "prompt": "p", "schedule": "interval", "value": "60000",
        "timezone": "UTC", "next_run_ms": 1_000,
    }
    return Task(**(known | facts))  # type: ignore[arg-type]


def test_due_tasks_come_earliest_first_then_by_id_whatever_order_they_are_in() -> None:
    found = [
        task(id="d1", next_run_ms=2_000), task(id="d2", next_run_ms=1_000), task(id="d3", next_run_ms=99_000),
        task(id="d4", next_run_ms=None), task(id="d5", status=Status.PAUSED), task(id="d6", status=Status.COMPLETED),
        task(id="d0", next_run_ms=2_000),
    ]
    for seed in range(5):
        random.Random(seed).shuffle(found)
        assert [each.id for each in tasks.due(found, 2_000)] == ["d2", "d0", "d1"]


def test_the_same_command_makes_the_same_task_and_the_same_fire_the_same_run() -> None:
    assert tasks.task_id_of("c1") == tasks.task_id_of("c1") != tasks.task_id_of("c2")
    assert tasks.task_run_id("t", 5) == tasks.task_run_id("t", 5)
    assert len({tasks.task_run_id("t", 5), tasks.task_run_id("t", 6), tasks.task_run_id("u", 5)}) == 3


@pytest.mark.parametrize(("given", "context"), [
    ("group", "group"), ("isolated", "isolated"), ("bogus", "isolated"), ("Group", "isolated"), ("", "isolated"),
    (None, "isolated"), (5, "isolated"), (["group"], "isolated"),
])
def test_a_task_knows_the_conversation_only_if_it_is_asked_for_in_so_many_words(given: object, context: str) -> None:
    assert tasks.context_of(given) == context


def test_what_is_kept_of_a_run() -> None:
    assert len(tasks.result_text(True, "x" * 500, None)) == 200
    assert tasks.result_text(True, None, None) == tasks.result_text(True, "", "") == "Completed"
    assert tasks.result_text(False, "said before", "boom") == "Error: boom"
    assert len(tasks.result_text(False, None, "b" * 500)) == 200
    assert (tasks.log_status(True), tasks.log_status(False)) == ("success", "error")


@pytest.mark.parametrize(("status", "next_run", "error", "after"), [
    ("active", None, None, "completed"), ("active", 5, None, "active"), ("paused", 5, None, "paused"),
    ("paused", None, None, "completed"), ("active", 5, "boom", "active"), ("active", 5, "Group not found: x", "paused"),
])
def test_where_a_task_stands_after_a_run(status: str, next_run: int | None, error: str | None, after: str) -> None:
    assert tasks.status_after_run(status, next_run, error) == after


def test_a_task_does_not_overtake_itself_until_its_run_is_given_up() -> None:
    fired = tasks.fired(task(), (1_000,), 61_000, 1_500)
    assert tasks.is_held(fired, 61_000)
    assert not tasks.is_held(fired, fired.open_until_ms)
    assert not tasks.is_held(replace(fired, catch_up="all"), 61_000)
    over = tasks.ended(fired, fired.open_run, ok=True, result="done", error="", now_ms=70_000)
    assert not tasks.is_held(over, 70_000)
    assert (over.last_run_ms, over.last_result, over.last_ok, over.status) == (70_000, "done", True, "active")
    older = tasks.ended(fired, "an older run", ok=True, result="", error="", now_ms=70_000)
    assert older.open_run == fired.open_run


def test_a_task_whose_time_was_skipped_and_has_no_other_is_completed() -> None:
    assert tasks.fired(task(), (), None, 5_000).status == Status.COMPLETED
    assert tasks.fired(task(), (), 9_000, 5_000) == task(next_run_ms=9_000)


def test_who_sees_and_changes_which_tasks() -> None:
    found = [task(id="1", group="main", created_ms=1), task(id="2", created_ms=3), task(id="3", created_ms=2)]
    assert [each.id for each in tasks.visible(found, "fam", False)] == ["2", "3"]
    assert [each.id for each in tasks.visible(found, "main", True)] == ["2", "3", "1"]
    assert [each.id for each in tasks.visible(found, "", False)] == ["2", "3", "1"]
    assert tasks.visible(found, "other", False) == []
    assert tasks.may_change("fam", False, "fam")
    assert not tasks.may_change("fam", False, "main")


def test_pause_and_resume() -> None:
    paused = tasks.paused(task())
    assert paused.status == Status.PAUSED
    assert tasks.paused(paused) == paused
    back = tasks.resumed(paused, 200_500, UTC)
    assert (back.status, back.next_run_ms) == (Status.ACTIVE, 241_000)
    once = task(schedule="once", value="2020-01-01T00:00:00Z", status=Status.PAUSED, next_run_ms=1_000)
    assert tasks.resumed(once, 200_500, UTC).next_run_ms == 1_000
    with pytest.raises(TaskStateError, match="update"):
        tasks.resumed(replace(once, next_run_ms=None), 200_500, UTC)
    for change in (tasks.paused, lambda done: tasks.resumed(done, 1, UTC)):
        with pytest.raises(TaskStateError) as refused:
            change(task(status=Status.COMPLETED))
        assert refused.value.got == "completed"


def test_update_starts_a_new_schedule_from_now_and_wakes_a_completed_task() -> None:
    done = task(status=Status.COMPLETED, next_run_ms=None)
    assert tasks.updated(done, 5_000, UTC, prompt="new") == replace(done, prompt="new")
    woken = tasks.updated(done, 5_000, UTC, value="1000")
    assert (woken.status, woken.next_run_ms, woken.value) == (Status.ACTIVE, 6_000, "1000")
    paused = tasks.updated(task(status=Status.PAUSED), 5_000, UTC, schedule="cron", value="0 0 * * *")
    assert (paused.status, paused.next_run_ms) == (Status.PAUSED, 86_400_000)
    with pytest.raises(ScheduleError):
        tasks.updated(task(), 5_000, UTC, schedule="cron")


def test_the_chat_hears_of_the_first_failure_in_a_row_only() -> None:
    assert tasks.tell_failure(task(), ok=False, visible=False)
    assert tasks.tell_failure(task(last_ok=True), ok=False, visible=False)
    assert not tasks.tell_failure(task(last_ok=False), ok=False, visible=False)
    assert not tasks.tell_failure(task(), ok=False, visible=True)
    assert not tasks.tell_failure(task(), ok=True, visible=False)
