"""Settings that are environment variables in the original, and lines of our file.

What is not set there is not written here; everything else is written as it stands. Times are milliseconds there and
seconds here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.contract.rows import Case, Unmapped

from microclaw.core.errors import UsageError
from microclaw.core.settings import Settings, parse

_UNSET = ("absent", "unset", "not set", "undefined")


def _as_text(said: str) -> str:
    return json.dumps(said)


def _as_seconds(said: str) -> str:
    return f"{int(said) / 1000:g}" if said.strip().isdigit() else said


#: Their name → our section and key, how a value is written there, and how it is read back.
_OURS: dict[str, tuple[str, str, Callable[[str], str], Callable[[Settings], Any]]] = {
    "MAX_CONCURRENT_CONTAINERS": ("queue", "max_concurrent", str, lambda found: found.queue.max_concurrent),
    "ASSISTANT_NAME": ("assistant", "name", _as_text, lambda found: found.assistant.name),
    "TZ": ("assistant", "timezone", _as_text, lambda found: found.assistant.timezone),
    "CONTAINER_TIMEOUT": ("sandbox", "run_timeout_s", _as_seconds, lambda found: found.sandbox.run_timeout_s * 1000),
    "IDLE_TIMEOUT": ("sandbox", "idle_timeout_s", _as_seconds, lambda found: found.sandbox.idle_timeout_s * 1000),
}


def answer(case: Case) -> dict[str, Any]:
    case.knows(*_OURS)
    if len(case.given) > 1:
        raise Unmapped("more than one setting")
    name = next(iter(case.given), "MAX_CONCURRENT_CONTAINERS")
    section, key, write, read = _OURS[name]
    said = case.given.get(name)
    said = "" if said is None or said in _UNSET else str(said)
    try:
        settings = parse(f"[{section}]\n{key} = {write(said)}\n" if said.strip() else "", {})
    except UsageError as error:
        return {"value": f"refused: {error}"}
    return {"value": read(settings)}
