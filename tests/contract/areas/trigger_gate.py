"""Do these waiting messages run the agent? The group is registered as the row says."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.groups import Registration, Rejected, decide_registration
from microclaw.core.trigger import should_wake, trigger_of


def answer(case: Case) -> dict[str, Any]:
    case.knows("assistant_name", "is_main", "requires_trigger", "group_trigger", "pending_texts")
    stated = case.given.get("requires_trigger")
    optional = {"requires_trigger": stated} if isinstance(stated, bool) else {}
    group = decide_registration(
        Registration("test:1", "g", "G", case.given.get("group_trigger") or "", **optional), [], now_ms=0
    )
    assert not isinstance(group, Rejected), group
    return {"run": should_wake(
        is_main=case.need("is_main"), requires_trigger=group.requires_trigger,
        trigger=trigger_of(group.trigger, case.given.get("assistant_name", "Andy")), texts=case.need("pending_texts"),
    )}
