"""What the scheduler does with due tasks and with the ends of their runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from tests.contract.areas.clock import clockwork
from tests.contract.rows import Case, Phrases, Unmapped, contains
from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.kinds import RunGranted, ScheduledTask
from microclaw.core.turns import ended
from microclaw.core.worker import TurnDone
from microclaw.scheduler.tables import tasks

_SCHEDULES = {"cron": "*/10 * * * *", "interval": "600000", "once": "2026-02-12T12:00:30Z"}
_MINUTE_MS = 60_000
_KNOWN = {"main", "fam", "other"}


def answer(case: Case) -> dict[str, Any]:
    case.knows(
        "task_status_at_pick", "paused_before_enqueue", "cancelled_before_enqueue", "deleted_before_enqueue",
        "completed_before_enqueue", "task", "registered",
        "run_seconds", "tick_seconds", "host_killed_during_run", "schedule", "result_text_length", "result", "error",
    )
    with clockwork() as clock:
        if "task_status_at_pick" in case.given:
            return _picked(clock, case)
        if "task" in case.given and "group_folder" in case.given["task"]:
            return _of_folder(clock, case.given["task"]["group_folder"], case.given.get("registered", _KNOWN))
        if "run_seconds" in case.given:
            return _still_running(clock, case.given["run_seconds"], case.need("tick_seconds"))
        if "host_killed_during_run" in case.given:
            return _killed(clock, case.given.get("schedule", "cron"))
        if {"result", "error", "result_text_length"} & set(case.given):
            return _recorded(clock, case)
    raise Unmapped("no such scene")


def _due(clock: Clockwork, schedule: str = "interval", value: str = "600000") -> str:
    task = clock.create(schedule, value)
    assert task.next_run_ms is not None
    clock.now = task.next_run_ms
    return task.id


def _picked(clock: Clockwork, case: Case) -> dict[str, Any]:
    task_id = _due(clock)
    _put(clock, task_id, case.given["task_status_at_pick"])
    due = clock.firing.due()
    if case.given.get("paused_before_enqueue"):
        clock.change(task_id, "pause")
    if case.given.get("completed_before_enqueue"):
        _put(clock, task_id, "completed")
    if case.given.get("cancelled_before_enqueue") or case.given.get("deleted_before_enqueue"):
        clock.change(task_id, "cancel")
    clock.firing.fire(due, clock.folders)
    clock.publish()
    return {"enqueued": bool(clock.requests)}


def _put(clock: Clockwork, task_id: str, status: str) -> None:
    if status not in ("active", "paused", "completed"):
        raise Unmapped(f"status: {status}")
    assert clock.engine is not None
    with clock.engine.begin() as db:
        db.execute(update(tasks).where(tasks.c.id == task_id).values(status=status))


def _of_folder(clock: Clockwork, folder: str, registered: Any) -> dict[str, Any]:
    task_id = _due(clock)
    assert clock.engine is not None
    with clock.engine.begin() as db:
        db.execute(update(tasks).where(tasks.c.id == task_id).values(folder=folder))
    clock.folders = frozenset(registered)
    clock.tick()
    row, log = clock.row(task_id), clock.log(task_id)
    return {
        "run_log_status": log[0][1] if log else None,
        "error_contains": contains(log[0][2] if log else ""),
        "task_status": row.status, "status": row.status, "enqueued": bool(clock.requests),
        "task_stays_due": bool(clock.firing.due()),
    }


def _still_running(clock: Clockwork, run_s: int, tick_s: int) -> dict[str, Any]:
    task_id = _due(clock)
    due_ms = clock.now
    for _ in range(0, run_s, tick_s):
        clock.tick()
        clock.now += tick_s * 1000
    clock.ends(task_id, due_ms)
    clock.tick()
    return {"runs_for_this_due_time": clock.fired().count((task_id, due_ms))}


def _killed(clock: Clockwork, schedule: str) -> dict[str, Any]:
    task_id = _due(clock, schedule, _SCHEDULES[schedule])
    due_ms = clock.now
    clock.tick()
    clock.start()
    clock.now += 1_000
    clock.tick()
    clock.ends(task_id, due_ms)
    clock.start()
    clock.tick()
    return {"runs_for_this_due_time": clock.fired().count((task_id, due_ms))}


def _recorded(clock: Clockwork, case: Case) -> dict[str, Any]:
    """The turn ends with this text or this error; its end goes the way of every run's."""
    task_id = _due(clock)
    due_ms = clock.now
    clock.tick()
    (asked,) = clock.requests
    given = case.given
    text = "x" * given["result_text_length"] if "result_text_length" in given else given.get("result") or ""
    error = given.get("error") or ""
    assert asked.task == ScheduledTask(
        task_id=task_id, prompt="stretch", due_ms=due_ms, context="isolated"
    )
    grant = RunGranted(run_id="r", attempt=1, group=asked.group, chat=asked.chat, task=asked.task)
    end = ended(grant, TurnDone(run_id="r", ok=not error, text=text), visible=False, key="")
    # An error comes in the run's own words.
    clock.ends(task_id, due_ms, ok=not error, result=end.finished.result, error=error)
    row, log = clock.row(task_id), clock.log(task_id)
    return {
        "last_result": row.last_result, "last_result_length": len(row.last_result), "log_status": log[0][1],
        "next_run": Phrases({"computed all the same": row.next_run_ms is not None and row.next_run_ms > due_ms}),
        "sent": bool(end.reply),
    }
