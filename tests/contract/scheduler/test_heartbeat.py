"""The heartbeat's task: one, as configured, in the active hours; and how checked runs are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.heartbeat import TASK_ID, active_hours
from microclaw.core.requests import Failed, Group
from microclaw.scheduler.heartbeat import MINUTE_MS, keep_heartbeat

MAIN = Group(chat="console:main", folder="main", name="Main", is_main=True)
HOUR_MS = 60 * MINUTE_MS
#: 14 November 2023, 22:13:20 UTC.
NOW = 1_700_000_000_000


@pytest.fixture
def clock(tmp_path: Path) -> Clockwork:
    return Clockwork(tmp_path, NOW)


def keep(clock: Clockwork, every_min: int, main: Group | None = MAIN) -> bool:
    assert clock.engine is not None
    return keep_heartbeat(clock.engine, main, every_min, "UTC", lambda: clock.now)


def test_it_is_made_once_changed_with_the_configuration_and_dropped(clock: Clockwork) -> None:
    assert not keep(clock, 30, main=None)
    assert clock.rows() == []
    assert keep(clock, 30)
    assert not keep(clock, 30)
    row = clock.row(TASK_ID)
    assert (row.group, row.context, row.value, row.next_run_ms) == (
        "main", "isolated", str(30 * MINUTE_MS), clock.now + 30 * MINUTE_MS
    )
    assert keep(clock, 60)
    assert clock.row(TASK_ID).next_run_ms == clock.now + HOUR_MS
    assert keep(clock, 60, Group(chat="console:new", folder="main", name="Main", is_main=True))
    assert clock.row(TASK_ID).chat == "console:new"
    assert keep(clock, 0)
    assert clock.rows() == []


def test_one_that_was_paused_stays_so_and_only_the_configuration_ends_it(clock: Clockwork) -> None:
    keep(clock, 30)
    clock.change(TASK_ID, "pause")
    keep(clock, 60)
    assert clock.row(TASK_ID).status == "paused"
    for action, facts in (("cancel", {}), ("update", {"prompt": "spend money"})):
        refused = clock.change(TASK_ID, action, viewer="main", viewer_is_main=True, **facts)
        assert isinstance(refused, Failed)
        assert "heartbeat.every_min" in refused.reason


def test_pain22_it_fires_in_the_active_hours_alone(clock: Clockwork) -> None:
    keep(clock, 60)
    clock.firing._heartbeat_hours = active_hours("08:00-10:00")
    for _ in range(48):
        clock.now = clock.firing.next_due_ms() or 0
        clock.tick()
        clock.finish_all()
    # It is 13 minutes past each hour: 8:13 and 9:13 on both days.
    assert len(clock.requests) == 4
    (task,) = {(request.task.is_heartbeat, request.group) for request in clock.requests if request.task}
    assert task == (True, "main")


def test_times_missed_are_not_made_up(clock: Clockwork) -> None:
    keep(clock, 30)
    clock.now += 5 * HOUR_MS + 7 * MINUTE_MS
    clock.tick()
    assert clock.requests == []
    assert (clock.row(TASK_ID).next_run_ms or 0) > clock.now


def test_a_run_that_its_check_found_needless_is_told_in_the_log(clock: Clockwork) -> None:
    row = clock.create("interval", "60000", script="  exit 0\n")
    assert row.script == "exit 0"
    due = row.next_run_ms or 0
    clock.now = due
    clock.tick()
    (request,) = clock.requests
    assert request.task is not None
    assert request.task.script == "exit 0"
    clock.ends(row.id, due, skipped=True, result="skipped by check")
    assert clock.log(row.id) == [(due, "skipped", "skipped by check")]
    after = clock.row(row.id)
    assert (after.last_result, after.status) == ("skipped by check", "active")


def test_a_check_that_fails_is_told_in_the_chat_once_in_a_row(clock: Clockwork) -> None:
    row = clock.create("interval", "60000", script="exit 1")
    for number in range(3):
        clock.now = (row.next_run_ms or 0) + number * 60_000
        clock.tick()
        clock.ends(row.id, clock.now, ok=False, retryable=False, error="the check before the task failed (exit code 1)")
    assert [status for _, status, _ in clock.log(row.id)] == ["error"] * 3
    assert "exit code 1" in clock.row(row.id).last_result
    assert len(clock.notices) == 1


def test_a_script_is_changed_taken_away_and_bounded(clock: Clockwork) -> None:
    row = clock.create("interval", "60000", script="exit 0")
    clock.change(row.id, "update", script="exit 1")
    assert clock.row(row.id).script == "exit 1"
    assert clock.row(row.id).next_run_ms == row.next_run_ms
    clock.change(row.id, "update", script="")
    assert clock.row(row.id).script == ""
    assert isinstance(clock.change(row.id, "update", script="x" * 20_000), Failed)
    assert isinstance(clock.try_create("interval", "60000", script="x" * 20_000), Failed)


def test_a_new_zone_moves_a_cron_to_that_zones_clock(clock: Clockwork) -> None:
    row = clock.create("cron", "0 9 * * *")
    clock.change(row.id, "update", timezone="Asia/Tokyo", context="group")
    after = clock.row(row.id)
    assert (after.timezone, after.value, after.context) == ("Asia/Tokyo", "0 9 * * *", "group")
    assert ((after.next_run_ms or 0) // HOUR_MS) % 24 == 0
