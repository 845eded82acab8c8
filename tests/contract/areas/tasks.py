"""What is kept of tasks."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import insert, update
from tests.contract.areas.clock import NOON, clockwork, iso, ms
from tests.contract.rows import Case, Phrases, Unmapped
from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.tasks import context_of
from microclaw.scheduler.tables import tasks

_PROMPT = "water the plants"
#: The original's columns that an update changes, and our names for them.
_COLUMNS = {"prompt": "prompt", "schedule_type": "schedule", "schedule_value": "value"}
#: What is done for a status.
_ACTIONS = {"paused": "pause", "active": "resume"}
_VALUES = {"cron": "*/10 * * * *", "interval": "600000", "once": "2026-02-12T12:10:00Z"}


def answer(case: Case) -> dict[str, Any]:
    case.knows(
        "task", "tasks", "now", "created_at", "paused_while_running", "cancelled_while_running",
        "task_cancelled_while_running", "update", "updates", "status", "new_status",
    )
    with clockwork(now=ms(case.given.get("now", NOON))) as clock:
        if case.when_is("due tasks are read"):
            return _due(clock, case.need("tasks"))
        if case.when_is("listed"):
            return _listed(clock, case.need("created_at"))
        if case.when_is("run ends"):
            return _run_ends(clock, case)
        if changes := _changes(case):
            return _changed(clock, case.need("task"), changes)
        if case.when_is("cancelled") or case.when_is("deleted"):
            return _cancelled(clock)
        if case.when_is("stored"):
            return _stored(clock, case.need("task"))
    raise Unmapped(f"when: {case.when}")


def _due(clock: Clockwork, given: list[dict[str, Any]]) -> dict[str, Any]:
    model = clock.create("once", "2999-01-01T00:00:00Z")
    assert clock.engine is not None
    with clock.engine.begin() as db:
        row = dict(db.execute(tasks.select().where(tasks.c.id == model.id)).one()._mapping)
        db.execute(tasks.delete())
        for task in given:
            when = task["next_run"]
            db.execute(insert(tasks), row | {
                "id": task["id"], "next_run_ms": None if when is None else ms(when),
                "status": task.get("status", "active"),
            })
    return {"ids": [task.id for task in clock.firing.due()]}


def _listed(clock: Clockwork, created_at: dict[str, str]) -> dict[str, Any]:
    names = {}
    for name, day in created_at.items():
        clock.now = ms(day)
        names[clock.create("interval", "600000").id] = name
    return {"order": [names[row.id] for row in clock.rows()]}


def _run_ends(clock: Clockwork, case: Case) -> dict[str, Any]:
    task = case.given.get("task")
    facts = task if isinstance(task, dict) else {}
    # A task without a next run is one that was due once.
    schedule = facts.get("schedule_type") or ("once" if facts.get("next_run", "") is None else "interval")
    then_ms = ms(facts["next_run"]) if facts.get("next_run") else None
    if then_ms is not None and schedule == "interval":
        # Made so that this is the time after the run.
        clock.now = then_ms - 2 * int(_VALUES["interval"])
    made = clock.create(schedule, _VALUES[schedule])
    assert made.next_run_ms is not None
    clock.now = made.next_run_ms
    clock.tick()
    if case.given.get("paused_while_running"):
        clock.change(made.id, "pause")
    if case.given.get("task_cancelled_while_running") or case.given.get("cancelled_while_running"):
        clock.change(made.id, "cancel")
    clock.ends(made.id, made.next_run_ms, result="done")
    clock.tick()
    rows = [row for row in clock.rows() if row.id == made.id]
    return {
        "host_keeps_running": True,
        "log_lost_or_kept": Phrases({"either": True}),
    } | ({"status": rows[0].status, "next_run": iso(rows[0].next_run_ms)} if rows else {})


def _cancelled(clock: Clockwork) -> dict[str, Any]:
    task = clock.create("interval", "600000")
    assert task.next_run_ms is not None
    clock.now = task.next_run_ms
    clock.tick()
    clock.ends(task.id, task.next_run_ms, result="done")
    assert clock.log(task.id)
    clock.change(task.id, "cancel")
    return {"task_gone": task.id not in [row.id for row in clock.rows()], "logs_gone": not clock.log(task.id)}


def _changes(case: Case) -> dict[str, str]:
    """What a row wants changed of a task, by the original's column names; by `when` too ("its status is set to x")."""
    given = case.given
    changes = dict(given.get("update") or given.get("updates") or {})
    if status := given.get("new_status", given.get("status")):
        changes["status"] = status
    if not changes and (said := re.search(r"set to (\w+)|\b(paused|resumed)\b", str(case.when))):
        word = said[1] or said[2]
        changes["status"] = "active" if word == "resumed" else word
    return changes


def _changed(clock: Clockwork, task: dict[str, Any], changes: dict[str, str]) -> dict[str, Any]:
    task_id = _made(clock, task)
    unknown = sorted(set(changes) - {"status", *_COLUMNS})
    if unknown or changes.get("status", "paused") not in _ACTIONS:
        raise Unmapped(f"changed: {changes}")
    if "status" in changes:
        clock.change(task_id, _ACTIONS[changes["status"]])
    if facts := {_COLUMNS[name]: value for name, value in changes.items() if name in _COLUMNS}:
        clock.change(task_id, "update", **facts)
    return _told(clock, task_id, task)


def _stored(clock: Clockwork, task: dict[str, Any]) -> dict[str, Any]:
    return _told(clock, _made(clock, task), task)


def _made(clock: Clockwork, task: dict[str, Any]) -> str:
    schedule = task.get("schedule_type", "interval")
    made = clock.create(
        schedule, task.get("schedule_value", _VALUES[schedule]), prompt=task.get("prompt", _PROMPT),
        context=context_of(task.get("context_mode")),
    )
    if task.get("status", "active") != "active":
        assert clock.engine is not None
        with clock.engine.begin() as db:
            db.execute(update(tasks).where(tasks.c.id == made.id).values(status=task["status"]))
    return made.id


def _told(clock: Clockwork, task_id: str, task: dict[str, Any]) -> dict[str, Any]:
    """As it is told by a scheduler that was killed meanwhile."""
    clock.start()
    row = clock.row(task_id)
    return {
        "prompt_kept": row.prompt == task.get("prompt", _PROMPT), "prompt": row.prompt, "status": row.status,
        "context_mode": row.context, "schedule_type": row.schedule, "schedule_value": row.value,
        "next_run": iso(row.next_run_ms),
    }
