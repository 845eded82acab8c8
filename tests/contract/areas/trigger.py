"""Does a text wake the assistant?"""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.trigger import trigger_of, triggers


def answer(case: Case) -> dict[str, Any]:
    case.knows("assistant_name", "text", "group_trigger")
    trigger = trigger_of(case.given.get("group_trigger") or "", case.given.get("assistant_name", "Andy"))
    return {"matches": triggers(case.need("text"), trigger)}
