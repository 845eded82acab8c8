"""One-time tasks."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import NOON, clockwork, iso, ms
from tests.contract.rows import Case, Phrases

from microclaw.core.requests import Failed


def answer(case: Case) -> dict[str, Any]:
    case.knows("value", "timezone", "now", "type", "schedule_type")
    kind = case.given.get("schedule_type", case.given.get("type", "once"))
    now = ms(case.given.get("now", NOON))
    with clockwork(now=now, zone=case.given.get("timezone") or "UTC") as clock:
        if case.when_is("after the run"):
            task = clock.create(kind, "2026-02-12T12:00:01Z")
            clock.now = now + 2_000
            clock.tick()
            clock.finish_all()
            row = clock.row(task.id)
            return {"next_run": iso(row.next_run_ms), "status": row.status}
        made = clock.try_create(kind, case.need("value"))
        if isinstance(made, Failed):
            return {"accepted": False, "next_run": None}
        at_once = clock.tick() == 1
        return {
            "accepted": True, "next_run": iso(made.task.next_run_ms), "status": made.task.status,
            "runs": Phrases({"at the next scheduler tick": at_once}),
        }
