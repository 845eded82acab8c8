"""Restarting services together, so that it takes as long as the slowest of them.

None is stopped: each is told to end, and supervisord starts it again by itself (as `/restart` does it). So whoever ends
this command on the way leaves nothing standing still. supervisord's own `startsecs` are waited for once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence

from microclaw.bus.supervisor import CHANGE_TIMEOUT_S, Process, Supervisor
from microclaw.core.errors import UnhealthyError
from microclaw.core.restarting import END_WAIT_S

POLL_S = 0.1


def stages(names: Iterable[str]) -> list[list[str]]:
    """The broker, and then the rest: after an update the others speak what the new broker understands."""
    names = list(names)
    both = ([name for name in names if name == "broker"], [name for name in names if name != "broker"])
    return [stage for stage in both if stage]


def restart(
    supervisor: Supervisor, names: Sequence[str], up: Callable[[str, bool], None] = lambda _name, _ran: None, *,
    clock_s: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Restart these together, and start those of them that do not run.

    :param up: told of each that supervisord holds for started again, and whether it ran before.
    :raises UnhealthyError: one does not start, or does not come back in time; all others were waited for.
    """
    before = _seen(supervisor, names)
    for name, process in before.items():
        if process.state != "RUNNING" or not supervisor.signal(name, signal.SIGTERM):
            # In the middle of its start it would pass for one that crashes there.
            supervisor.stop(name)
            supervisor.start(name, wait=False)
    began_s, left, killed = clock_s(), list(before), False
    failed: list[str] = []
    while left:
        if clock_s() - began_s > CHANGE_TIMEOUT_S:
            raise UnhealthyError(f"{', '.join(failed + left)} did not come back; see `microclaw status`")
        sleep(POLL_S)
        now = _seen(supervisor, left)
        if clock_s() - began_s > END_WAIT_S and not killed:
            killed = True
            for name, process in now.items():
                if process.pid and process.pid == before[name].pid:
                    # What it had is given to its next life.
                    supervisor.signal(name, signal.SIGKILL)
        for name, process in now.items():
            if process.state in ("BACKOFF", "FATAL"):
                failed.append(name)
                left.remove(name)
            elif process.state == "RUNNING" and process.pid != before[name].pid:
                up(name, before[name].pid != 0)
                left.remove(name)
    if failed:
        raise UnhealthyError(
            f"{', '.join(failed)} does not start; its log says why: `microclaw logs {failed[0]}`"
        )


def _seen(supervisor: Supervisor, names: Iterable[str]) -> dict[str, Process]:
    return {process.name: process for process in supervisor.processes() if process.name in set(names)}
