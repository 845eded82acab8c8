"""The scheduler over its real database: every due time once, whatever is killed when, whatever the clock does."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from tests.contract.scheduler.clockwork import Clockwork, Killed

from microclaw.core.requests import Failed, TaskAnswer
from microclaw.core.schedule import CATCH_UP_FIRES_MAX, MISSED_AFTER_MS
from microclaw.core.tasks import OPEN_MS_MAX
from microclaw.scheduler import store
from microclaw.scheduler.serve import Scheduler

DAY_MS = 24 * 3600 * 1000


def ms(text_: str) -> int:
    return int(datetime.fromisoformat(text_.replace("Z", "+00:00")).timestamp() * 1000)


@pytest.fixture
def clock(tmp_path: Path) -> Clockwork:
    return Clockwork(tmp_path)


def test_a_task_fires_when_due_and_not_before(clock: Clockwork) -> None:
    row = clock.create("interval", "10000", context="group", is_main=True)
    assert (row.status, row.next_run_ms, row.timezone) == ("active", clock.now + 10_000, "UTC")
    clock.now += 9_999
    assert clock.tick() == 0
    clock.now += 1
    assert clock.tick() == 1
    [request] = clock.requests
    assert request.task is not None
    assert (request.group, request.chat, request.is_main) == ("fam", "console:fam", True)
    assert (request.task.prompt, request.task.context, request.task.due_ms) == ("stretch", "group", clock.now)
    assert request.messages == ()
    assert clock.tick() == 0


def test_a_task_still_running_is_not_fired_again_and_then_catches_up_once(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    due = row.next_run_ms or 0
    clock.now = due
    clock.tick()
    for _ in range(5):
        clock.now += 60_000
        assert clock.tick() == 0
    clock.start()
    assert clock.tick() == 0
    assert clock.ends(row.id, due)
    assert clock.tick() == 1
    assert clock.fired() == [(row.id, due), (row.id, due + 5 * 60_000)]


@pytest.mark.parametrize("catch_up", ["latest", "all"])
def test_while_there_is_nothing_to_run_in_one_fire_waits_and_none_piles_up(clock: Clockwork, catch_up: str) -> None:
    row = clock.create("interval", "60000", catch_up=catch_up)
    due = clock.now = row.next_run_ms or 0
    clock.tick()
    for _ in range(10 * 60):
        assert not clock.ends(row.id, due, ok=False, waiting=True, error="no Docker")
        clock.now += 60_000
        assert clock.tick() == 0
        assert clock.firing.give_up() == 0, "it is no run without an end, however long it waits"
    assert clock.log(row.id) == [(due, "waiting", "no Docker")]
    assert "waits" in str(clock.firing.fire_now("f1", row.id, None))
    assert (clock.notices, clock.troubles) == ([], [])
    clock.start()
    assert clock.ends(row.id, due, result="done")
    assert clock.log(row.id) == [(due, "success", "done")]
    assert clock.tick() == (1 if catch_up == "latest" else CATCH_UP_FIRES_MAX)
    assert clock.row(row.id).last_result == "done"


def test_a_once_that_waits_is_not_completed_before_it_ran(clock: Clockwork) -> None:
    row = clock.create("once", "2020-01-01T00:00:00Z")
    clock.tick()
    [(_, due)] = clock.fired()
    clock.ends(row.id, due, ok=False, waiting=True, error="no Docker")
    assert clock.row(row.id).status == "active"
    clock.ends(row.id, due)
    assert clock.row(row.id).status == "completed"


def test_a_task_that_makes_no_time_up_waits_for_a_minute_only(clock: Clockwork) -> None:
    row = clock.create("interval", "600000", catch_up="skip")
    due = clock.now = row.next_run_ms or 0
    clock.tick()
    clock.now += MISSED_AFTER_MS - 1
    clock.ends(row.id, due, ok=False, waiting=True, error="no Docker")
    assert clock.withdrawn == []
    clock.now += 1
    clock.ends(row.id, due, ok=False, waiting=True, error="no Docker")
    assert clock.withdrawn == [row.id]
    assert clock.ends(row.id, due, withdrawn=True, skipped=True)
    assert clock.log(row.id) == [(due, "skipped", "nothing to run it in at its time")]
    clock.now = due + 600_000
    assert clock.tick() == 1


def test_a_task_cancelled_while_it_waits_is_withdrawn(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    due = clock.now = row.next_run_ms or 0
    clock.change(row.id, "pause")
    clock.change(row.id, "resume")
    clock.publish()
    assert clock.withdrawn == [], "nothing of it was under way"
    due = clock.now = clock.row(row.id).next_run_ms or 0
    clock.tick()
    clock.ends(row.id, due, ok=False, waiting=True)
    with Killed(clock, before=True):
        clock.change(row.id, "cancel")
    clock.start()
    assert clock.withdrawn == []
    with Killed(clock, before=False):
        clock.change(row.id, "cancel")
    clock.start()
    assert clock.withdrawn == [row.id]
    assert clock.rows() == []
    assert clock.ends(row.id, due, withdrawn=True, skipped=True)


@pytest.mark.parametrize(("schedule", "value"), [("interval", "60000"), ("once", "2020-01-01T00:00:00Z")])
def test_a_task_paused_while_it_waits_runs_when_it_is_resumed(clock: Clockwork, schedule: str, value: str) -> None:
    row = clock.create(schedule, value)
    clock.now = max(clock.now, row.next_run_ms or 0)
    clock.tick()
    [(_, due)] = clock.fired()
    clock.ends(row.id, due, ok=False, waiting=True)
    clock.change(row.id, "pause")
    clock.publish()
    assert clock.withdrawn == [row.id]
    assert clock.ends(row.id, due, withdrawn=True, skipped=True)
    assert clock.log(row.id) == [(due, "skipped", "paused before it began")]
    assert clock.tick() == 0
    assert (clock.row(row.id).status, clock.row(row.id).last_result) == ("paused", "")
    clock.change(row.id, "resume")
    clock.now += 60_000
    assert clock.tick() == 1
    assert clock.notices == []


def test_pain19_a_run_that_nobody_ends_does_not_stop_a_task_for_ever(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    due = row.next_run_ms or 0
    clock.now = due
    clock.tick()
    clock.now += OPEN_MS_MAX
    assert clock.firing.give_up() == 1
    assert clock.log(row.id)[0][1] == "error"
    assert clock.tick() == 1
    assert not clock.ends(row.id, due), "a late end changes nothing"


def test_what_a_run_leaves_behind(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    due = row.next_run_ms or 0
    for number, (how, result, status) in enumerate([
        ({"result": "x" * 500}, "x" * 200, "success"), ({}, "Completed", "success"),
        ({"ok": False, "error": "boom"}, "Error: boom", "error"),
        ({"ok": False, "error": "again"}, "Error: again", "error"),
    ]):
        clock.now = due + number * 60_000
        clock.tick()
        clock.now += 5_000
        clock.ends(row.id, due + number * 60_000, **how)  # type: ignore[arg-type]
        after = clock.row(row.id)
        assert (after.last_result, after.last_run_ms, after.status) == (result, clock.now, "active")
        assert after.next_run_ms == due + (number + 1) * 60_000, "no drift, and after a failure all the same"
        assert clock.log(row.id)[0] == (due + number * 60_000, status, result)
    [notice] = clock.notices
    assert "stretch" in notice
    assert "boom" not in notice


def test_a_once_runs_late_and_is_completed(clock: Clockwork) -> None:
    row = clock.create("once", "2020-01-01T00:00:00Z")
    assert clock.tick() == 1
    assert clock.row(row.id).status == "active"
    clock.ends(row.id, row.next_run_ms or 0)
    done = clock.row(row.id)
    assert (done.status, done.next_run_ms) == ("completed", None)
    clock.now += DAY_MS
    assert clock.tick() == 0
    refused = clock.change(row.id, "resume")
    assert isinstance(refused, Failed)
    assert refused.code == "conflict"


def test_paused_between_the_pick_and_the_fire_is_not_fired(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    clock.now += 60_000
    picked = clock.firing.due()
    clock.change(row.id, "pause")
    assert clock.firing.fire(picked, clock.folders) == 0
    clock.change(row.id, "cancel")
    assert clock.firing.fire(picked, clock.folders) == 0
    assert clock.requests == []


def test_paused_while_running_stays_paused(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    clock.now += 60_000
    clock.tick()
    clock.change(row.id, "pause")
    clock.ends(row.id, clock.now)
    assert clock.row(row.id).status == "paused"
    clock.now += 600_000
    assert clock.tick() == 0
    clock.change(row.id, "resume")
    assert clock.row(row.id).next_run_ms == clock.now + 60_000
    assert clock.tick() == 0


def test_a_task_of_a_group_that_is_gone_is_paused_and_logged(clock: Clockwork) -> None:
    row = clock.create("interval", "60000", group="gone")
    clock.now += 60_000
    assert clock.tick() == 0
    assert clock.row(row.id).status == "paused"
    assert clock.log(row.id) == [(clock.now, "error", "Error: Group not found: gone")]
    assert clock.troubles
    clock.now += DAY_MS
    assert clock.tick() == 0


def test_a_group_that_only_the_sandbox_misses_pauses_the_task_too(clock: Clockwork) -> None:
    clock.folders = None
    row = clock.create("interval", "60000", group="gone")
    clock.now += 60_000
    assert clock.tick() == 1
    clock.ends(row.id, clock.now, ok=False, retryable=False, error="Group not found: gone")
    assert clock.row(row.id).status == "paused"


@pytest.mark.parametrize(("column", "value"), [
    ("folder", "../../outside"), ("value", "* * *"), ("timezone", "Mars/Olympus"), ("schedule", "weekly"),
])
def test_a_damaged_task_is_paused_and_does_no_harm_to_others(clock: Clockwork, column: str, value: str) -> None:
    clock.folders = None
    bad = clock.create("cron", "* * * * *", timezone="Europe/Berlin")
    good = clock.create("interval", "60000")
    assert clock.engine is not None
    with clock.engine.begin() as db:
        db.execute(text(f"UPDATE scheduler_tasks SET {column} = :value WHERE id = :id"), {"value": value, "id": bad.id})
    clock.now += 60_000
    assert clock.tick() == 1
    assert [task_id for task_id, _ in clock.fired()] == [good.id]
    assert clock.row(bad.id).status == "paused"
    assert clock.log(bad.id)[0][1] == "error"


def test_a_damaged_interval_goes_on_slowly(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    assert clock.engine is not None
    with clock.engine.begin() as db:
        db.execute(text("UPDATE scheduler_tasks SET value = '0'"))
    clock.now += 60_000
    assert clock.tick() == 1
    assert clock.row(row.id).next_run_ms == clock.now + 60_000


def test_a_cancelled_task_is_gone_with_its_log_and_a_late_end_does_no_harm(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    clock.now += 60_000
    clock.tick()
    assert isinstance(clock.change(row.id, "cancel"), TaskAnswer)
    assert clock.rows() == []
    assert clock.log(row.id) == []
    assert not clock.ends(row.id, clock.now)


def test_equal_due_times_fire_in_the_order_of_ids(clock: Clockwork) -> None:
    made = [clock.create("once", "2024-01-01T00:00:00Z") for _ in range(20)]
    clock.now = ms("2024-01-01T00:00:00Z")
    clock.tick()
    assert [task_id for task_id, _ in clock.fired()] == sorted(row.id for row in made)


# --- commands ---------------------------------------------------------------------------------------------------


def test_a_repeated_command_changes_nothing_and_gets_the_first_answer(clock: Clockwork) -> None:
    first = clock.create("interval", "60000", command_id="same")
    clock.now += 5_000
    clock.start()
    assert clock.create("interval", "60000", command_id="same") == first
    assert len(clock.rows()) == 1
    paused = clock.change(first.id, "pause", command_id="p")
    clock.change(first.id, "resume")
    assert clock.change(first.id, "pause", command_id="p") == paused
    assert clock.row(first.id).status == "active"


@pytest.mark.parametrize(("facts", "word"), [
    ({"schedule": "weekly"}, "weekly"), ({"value": "x"}, "whole number"), ({"timezone": "Mars"}, "time zone"),
    ({"group": "../x"}, "folder"), ({"chat": "nowhere"}, "chat"), ({"prompt": "  "}, "empty"),
    ({"prompt": "x" * 40_000}, "longer"), ({"value": "9" * 300}, "longer"), ({"command_id": "x" * 201}, "command_id"),
])
def test_a_task_that_can_not_be_is_refused_in_one_line(clock: Clockwork, facts: dict[str, Any], word: str) -> None:
    refused = clock.try_create(**({"schedule": "interval", "value": "60000"} | facts))
    assert isinstance(refused, Failed)
    assert word in refused.reason
    assert "\n" not in refused.reason
    assert clock.rows() == []


def test_a_group_sees_and_changes_its_own_tasks_only(clock: Clockwork) -> None:
    mine, theirs = clock.create("interval", "60000"), clock.create("interval", "60000", group="other")
    assert [row.id for row in clock.rows("fam")] == [mine.id]
    assert len(clock.rows("main", True)) == len(clock.rows()) == 2
    for action in ("pause", "resume", "cancel", "update"):
        denied = clock.change(theirs.id, action, viewer="fam")
        assert isinstance(denied, Failed)
        assert denied.code == "denied"
        missing = clock.change("no-such-task", action, viewer="fam")
        assert isinstance(missing, Failed)
        assert missing.code == "not_found"
    assert isinstance(clock.change(theirs.id, "pause", viewer="main", viewer_is_main=True), TaskAnswer)
    assert isinstance(clock.change(mine.id, "cancel", viewer="fam"), TaskAnswer)


def test_update_changes_what_was_named(clock: Clockwork) -> None:
    row = clock.create("interval", "60000")
    clock.change(row.id, "update", prompt="drink", schedule="cron", value="0 9 * * *", catch_up="skip")
    after = clock.row(row.id)
    assert (after.prompt, after.schedule, after.value, after.catch_up) == ("drink", "cron", "0 9 * * *", "skip")
    refused = clock.change(row.id, "update", value="99 9 * * *")
    assert isinstance(refused, Failed)
    assert clock.row(row.id) == after


def test_the_newest_task_is_listed_first(clock: Clockwork) -> None:
    made = []
    for _ in range(3):
        clock.now += 1_000
        made.append(clock.create("interval", "60000").id)
    assert [row.id for row in clock.rows()] == made[::-1]


def test_local_times_are_the_owners(tmp_path: Path) -> None:
    clock = Clockwork(tmp_path, ms("2026-03-08T05:00:00Z"), "America/New_York")
    assert clock.create("cron", "30 2 * * *").next_run_ms == ms("2026-03-08T07:30:00Z")
    assert clock.create("once", "2026-04-01T09:00:00").next_run_ms == ms("2026-04-01T13:00:00Z")
    abroad = clock.create("once", "2026-04-01T09:00:00", timezone="Europe/Berlin")
    assert abroad.next_run_ms == ms("2026-04-01T07:00:00Z")


# --- missed times and clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("catch_up", "days"), [("latest", [5]), ("skip", []), ("all", [1, 2, 3, 4, 5])])
def test_pain17_times_missed_are_made_up_as_the_task_says(tmp_path: Path, catch_up: str, days: list[int]) -> None:
    clock = Clockwork(tmp_path, ms("2026-02-01T08:00:00Z"))
    row = clock.create("cron", "0 9 * * *", catch_up=catch_up)
    clock.now = ms("2026-02-05T20:00:00Z")
    clock.start()
    clock.tick()
    assert clock.fired() == [(row.id, ms(f"2026-02-0{day}T09:00:00Z")) for day in days]
    assert clock.row(row.id).next_run_ms == ms("2026-02-06T09:00:00Z")


def test_a_clock_set_back_neither_repeats_nor_forgets(tmp_path: Path) -> None:
    clock = Clockwork(tmp_path, ms("2026-02-01T08:00:00Z"))
    row = clock.create("cron", "0 * * * *")
    clock.now = ms("2031-02-01T08:30:00Z")
    clock.tick()
    clock.finish_all()
    assert clock.fired() == [(row.id, ms("2031-02-01T08:00:00Z"))]
    clock.now = ms("2026-02-01T08:30:00Z")
    clock.firing.clock_went_back()
    for hour in range(9, 13):
        clock.now = ms(f"2026-02-01T{hour:02}:00:00Z")
        clock.tick()
        clock.finish_all()
        clock.now -= 1_800_000
        clock.firing.clock_went_back()
        clock.tick()
    assert clock.fired()[1:] == [(row.id, ms(f"2026-02-01T{hour:02}:00:00Z")) for hour in range(9, 13)]


async def test_a_clock_set_back_while_the_service_was_not_there_is_noticed_at_its_start(tmp_path: Path) -> None:
    clock = Clockwork(tmp_path, ms("2026-02-01T08:00:00Z"))
    row = clock.create("cron", "0 * * * *")
    clock.now = ms("2031-02-01T08:30:00Z")
    clock.tick()
    clock.finish_all()
    clock.now = ms("2026-02-01T08:30:00Z")
    clock.start()
    service = SimpleNamespace(stopping=asyncio.Event(), facts={}, log=None)
    keeping = asyncio.create_task(Scheduler(service, clock.firing, clock.commands).keep_time())  # type: ignore[arg-type]
    while not service.facts:
        await asyncio.sleep(0)
    keeping.cancel()
    assert clock.row(row.id).next_run_ms == ms("2026-02-01T09:00:00Z")


def test_a_task_that_is_over_is_forgotten_with_its_log(tmp_path: Path) -> None:
    """Else ten reminders a day are a list of thousands after a year."""
    clock = Clockwork(tmp_path, ms("2026-02-01T08:00:00Z"))
    over = clock.create("once", "2026-02-01T09:00:00Z")
    ahead = clock.create("once", "2027-02-01T09:00:00Z")
    daily = clock.create("cron", "0 9 * * *")
    clock.now = ms("2026-02-01T09:00:00Z")
    clock.tick()
    clock.finish_all()
    clock.firing.forget()
    assert clock.row(over.id).status == "completed"
    clock.now += store.FIRES_KEPT_MS + 1
    clock.firing.forget()
    assert {row.id for row in store.all_tasks(clock.firing._engine)} == {ahead.id, daily.id}
