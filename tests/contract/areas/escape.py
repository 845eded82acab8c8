"""Escaping for the prompt."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.prompt import escape


def answer(case: Case) -> dict[str, Any]:
    case.knows("text")
    # The original's escape of "nothing" is an empty text.
    return {"text": escape(case.need("text") or "")}
