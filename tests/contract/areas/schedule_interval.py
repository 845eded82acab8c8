"""Interval tasks."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from tests.contract.areas.clock import NOON, clockwork, iso, ms
from tests.contract.rows import Case, Checked, Phrases
from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.requests import Failed
from microclaw.core.schedule import DAMAGED_RETRY_MS
from microclaw.scheduler.tables import tasks

#: Fires after which a task that never rests would be caught.
PASSES = 3


def answer(case: Case) -> dict[str, Any]:
    case.knows("value", "timezone", "now", "was_due", "stored_by_hand")
    now = ms(case.given.get("now", NOON))
    value = case.need("value")
    if not isinstance(value, str):
        # The bus takes texts alone.
        return {"accepted": False, "ms": None, "next_run": None}
    if case.given.get("stored_by_hand"):
        return _damaged(value, now)
    if "was_due" in case.given:
        return _after_a_run(value, ms(case.given["was_due"]), now)
    with clockwork(now=now) as clock:
        made = clock.try_create("interval", value)
    if isinstance(made, Failed):
        return {"accepted": False, "ms": None, "next_run": None}
    assert made.task.next_run_ms is not None
    return {"accepted": True, "ms": made.task.next_run_ms - now, "next_run": iso(made.task.next_run_ms)}


def _after_a_run(value: str, was_due: int, now: int) -> dict[str, Any]:
    with clockwork(now=was_due) as clock:
        task = clock.create("interval", value)
        _by_hand(clock, task.id, next_run_ms=was_due)
        clock.now = now
        clock.tick()
        clock.finish_all()
        next_run = clock.row(task.id).next_run_ms
    assert next_run is not None
    return {
        "next_run": iso(next_run),
        "next_run_after": Checked(next_run, lambda got, bound: got > ms(bound)),
        "offset_from_due_mod_ms": (next_run - was_due) % int(value),
    }


def _damaged(value: str, now: int) -> dict[str, Any]:
    with clockwork(now=now) as clock:
        task = clock.create("interval", "60000")
        _by_hand(clock, task.id, value=value, next_run_ms=now)
        fires = sum(clock.tick() for _ in range(PASSES))
        row = clock.row(task.id)
    is_calm = row.status == "paused" or row.next_run_ms == now + DAMAGED_RETRY_MS
    return {
        "no_infinite_loop": fires <= 1,
        "next_run": Phrases({"now + 60 s or the task is paused": is_calm}),
    }


def _by_hand(clock: Clockwork, task_id: str, **values: Any) -> None:
    assert clock.engine is not None
    with clock.engine.begin() as db:
        db.execute(update(tasks).where(tasks.c.id == task_id).values(**values))
