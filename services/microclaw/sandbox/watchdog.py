"""Limits without control groups: somebody looks, some ten times a second, and stops what takes too much.

A look costs reading two small files a process. It comes later than the kernel would: for the time of a look a
sandbox may be above its limits, bounded by each process's own limits (`rlimits`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microclaw.sandbox.backend import Limits

#: Between two looks.
LOOK_S = 0.1
#: Processor time that may be saved up for a burst.
BURST_S = 0.5

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class CpuBudget:
    """Processor time as it is earned and spent. Pure: time comes in."""

    cpus: float
    #: What may be spent now; below 0 the sandbox rests.
    credit_s: float = BURST_S

    def spend(self, elapsed_s: float, used_s: float) -> bool:
        """Account for a while; True = it has to rest."""
        self.credit_s = min(BURST_S, self.credit_s + elapsed_s * self.cpus - used_s)
        return self.credit_s < 0


class Watchdog:
    """Watches the processes of one sandbox: `first` and all its descendants."""

    def __init__(self, first: int, limits: Limits, kill: Callable[[], None]) -> None:
        self._first = first
        self._limits = limits
        self._kill = kill
        self._budget = CpuBudget(limits.cpus)
        #: It was killed because its processes together held more than the limit.
        self.out_of_memory = False

    async def run(self) -> None:
        """Until it is cancelled."""
        used: dict[int, float] = {}
        looked = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            pids = descendants(self._first)
            if sum(map(_memory_bytes, pids)) > self._limits.memory_bytes:
                self.out_of_memory = True
                self._kill()
                return
            now, seen = time.monotonic(), {pid: _cpu_s(pid) for pid in pids}
            spent = sum(max(0.0, seconds - used.get(pid, 0.0)) for pid, seconds in seen.items())
            if self._budget.spend(now - looked, spent):
                await self._rest(pids)
            used, looked = seen, now

    async def _rest(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(-self._budget.credit_s / self._budget.cpus)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def descendants(first: int) -> list[int]:
    """`first` and what it and its children started."""
    found, pending = [], [first]
    while pending:
        pid = pending.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    pending += map(int, (task / "children").read_text().split())
    return found


def _memory_bytes(pid: int) -> int:
    """What it holds for itself: resident memory without files that others have too."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * _PAGE_BYTES
    return 0


def _cpu_s(pid: int) -> float:
    """Processor time it used so far, that of its dead children left out: they were counted while they
    lived."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return 0.0
