"""When a worker counts as stuck.

"Claims" are turns under way, by their age; the heartbeat is the last line that the worker wrote. A worker without a
turn is ended when it has been idle for long (`sandbox.idle_timeout_s`). A tool announces no time-out of its own here:
while one runs, the worker goes on giving signs of life.
"""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case

from microclaw.core.settings import Sandbox
from microclaw.core.turns import Sign, Watch


def answer(case: Case) -> dict[str, Any]:
    case.knows("heartbeat_age_s", "claims")
    heartbeat, settings = case.need("heartbeat_age_s"), Sandbox()
    ages = [claim["age_s"] for claim in case.need("claims")]
    known = [age for age in ages if isinstance(age, int | float)]
    if not ages:
        is_stuck = heartbeat is not None and heartbeat >= settings.idle_timeout_s
    else:
        # By the watch's clock it is now 0. A turn of unknown age counts as new.
        watch = Watch(-max(known, default=0), settings.run_timeout_s)
        if heartbeat is not None and heartbeat < max(known, default=0):
            watch.heard(-heartbeat)
        is_stuck = watch.sign(0) is not Sign.WELL
    return {"action": "kill" if is_stuck else "ok"}
