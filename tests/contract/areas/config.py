"""The bound on concurrent runs: an environment variable in the original, `queue.max_concurrent` in our file.

What is not set there is not written here; everything else is written as it stands.
"""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.errors import UsageError
from microclaw.core.settings import parse


def answer(case: Case) -> dict[str, Any]:
    case.knows("MAX_CONCURRENT_CONTAINERS")
    said = case.given.get("MAX_CONCURRENT_CONTAINERS") or ""
    said = "" if said in ("absent", "unset", "not set", "undefined") else str(said)
    try:
        settings = parse(f"[queue]\nmax_concurrent = {said}\n" if said.strip() else "", {})
    except UsageError as error:
        return {"value": f"refused: {error}"}
    return {"value": settings.queue.max_concurrent}
