"""The agent's internal notes never leave."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.text import strip_internal


def answer(case: Case) -> dict[str, Any]:
    case.knows("text")
    return {"text": strip_internal(case.need("text"))}
