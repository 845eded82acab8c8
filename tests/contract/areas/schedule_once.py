"""One-time tasks."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import NOON, clockwork, iso, ms
from tests.contract.rows import Case, Phrases, Unmapped

from microclaw.core.requests import Failed


def answer(case: Case) -> dict[str, Any]:
    case.knows("value", "timezone", "now", "type", "schedule_type")
    kind = case.given.get("schedule_type", case.given.get("type", "once"))
    now = ms(case.given.get("now", NOON))
    with clockwork(now=now, zone=case.given.get("timezone") or "UTC") as clock:
        if case.when_is("after the run"):
            values = {"once": "2026-02-12T12:00:01Z", "interval": "1000", "cron": "* * * * *"}
            if kind not in values:
                raise Unmapped(f"type: {kind}")
            task = clock.create(kind, values[kind])
            clock.now = task.next_run_ms or now
            clock.tick()
            clock.finish_all()
            row = clock.row(task.id)
            return {"next_run": iso(row.next_run_ms), "status": row.status}
        value = case.need("value")
        if not isinstance(value, str) or not isinstance(kind, str):
            # The bus takes texts alone.
            return {"accepted": False, "next_run": None}
        made = clock.try_create(kind, value)
        if isinstance(made, Failed):
            return {"accepted": False, "next_run": None}
        at_once = clock.tick() == 1
        return {
            "accepted": True, "next_run": iso(made.task.next_run_ms), "status": made.task.status,
            "runs": Phrases({"at the next scheduler tick": at_once}),
        }
