"""Cron tasks, as the scheduler's own commands make them."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import clockwork, iso, ms
from tests.contract.rows import Case

from microclaw.core.requests import Failed


def answer(case: Case) -> dict[str, Any]:
    case.knows("expression", "timezone", "now")
    with clockwork(now=ms(case.need("now")), zone=case.given.get("timezone") or "UTC") as clock:
        made = clock.try_create("cron", case.need("expression"))
    if isinstance(made, Failed):
        return {"accepted": False, "next_run": None}
    return {"accepted": True, "next_run": iso(made.task.next_run_ms)}
