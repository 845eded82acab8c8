"""Waiting until every service works, as the services themselves say it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from microclaw.bus.supervisor import Process, Supervisor
from microclaw.cli.context import Context
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import NotRunningError, UnhealthyError, UsageError

#: From the start to the last service's "ready".
READY_WAIT_S = 30.0
POLL_S = 0.04
#: Lines of a log that an error repeats.
TAIL_LINES = 5
#: `watch` is supervisord's listener and not on the bus.
NOT_ON_BUS = frozenset({"watch"})


def unused(context: Context, processes: Iterable[Process]) -> set[str]:
    """The connectors that the configuration does not ask for; while it can't be read, those that were never started."""
    try:
        used = set(context.settings.channels.enabled())
    except UsageError:
        used = {process.name for process in processes if process.since_s}
    return set(CONNECTORS) - used


def wanted(context: Context, processes: Iterable[Process]) -> list[Process]:
    """Without the connectors that do not run because nobody asks for them: that is no trouble."""
    known = list(processes)
    off = unused(context, known)
    return [process for process in known if process.name not in off or process.pid]


def wait(context: Context, started: subprocess.Popen[bytes] | None, timeout_s: float = READY_WAIT_S) -> float:
    """Until all services are ready, showing progress. Returns the seconds it took.

    :raises UnhealthyError: supervisord ended (`started` is it), or a service is not ready in time; says why.
    """
    return asyncio.run(ready(context, started, timeout_s))


async def ready(
    context: Context, started: subprocess.Popen[bytes] | None, timeout_s: float = READY_WAIT_S
) -> float:
    """`wait`, inside an event loop."""
    begin = time.monotonic()
    processes = await _programs(context, started, begin + timeout_s)
    waiting = [process.name for process in wanted(context, processes) if process.name not in NOT_ON_BUS]
    total = len(waiting)
    show = _Progress(context, total)
    try:
        await asyncio.wait_for(_until_ready(context, waiting, show), max(0.1, begin + timeout_s - time.monotonic()))
    except TimeoutError:
        show.end()
        raise UnhealthyError(_why(context, waiting)) from None
    show.end()
    return time.monotonic() - begin


async def _programs(context: Context, started: subprocess.Popen[bytes] | None, until: float) -> list[Process]:
    """supervisord's programs, once it answers."""
    supervisor = Supervisor(context.home.supervisor_socket)
    while True:
        try:
            return supervisor.processes()
        except NotRunningError:
            if started is not None and (code := started.poll()) is not None:
                last = tail(context.home.logs / "up.log", 1) or ["nothing was said"]
                raise UnhealthyError(f"supervisord ended at its start with status {code}: {last[0]}") from None
            if time.monotonic() > until:
                raise UnhealthyError("supervisord does not answer: see `microclaw logs supervisord`") from None
        await asyncio.sleep(POLL_S)


async def _until_ready(context: Context, waiting: list[str], show: _Progress) -> None:
    from microclaw.bus.client import connect
    from microclaw.bus.errors import BusError
    from microclaw.core.requests import Failed, ServiceStatus, StatusAsked

    bus = await connect(context.home.bus, "cli")
    try:
        while waiting:
            for name in list(waiting):
                try:
                    answer = await bus.request(name, StatusAsked(), ServiceStatus | Failed, timeout_s=1.0)  # type: ignore[arg-type]
                except BusError:
                    continue
                if isinstance(answer, ServiceStatus) and answer.ready:
                    waiting.remove(name)
                    show.update(waiting)
            await asyncio.sleep(POLL_S)
    finally:
        await bus.close()


class _Progress:
    """One line that changes in place, on a terminal."""

    def __init__(self, context: Context, total: int) -> None:
        self._shown = context.in_place
        self._total = total

    def update(self, waiting: list[str]) -> None:
        if self._shown:
            left = f", waiting for {', '.join(waiting)}" if waiting else ""
            print(f"\r\033[Kstarting: {self._total - len(waiting)} of {self._total} services{left}", end="",
                  file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _why(context: Context, waiting: list[str]) -> str:
    states = {process.name: process for process in Supervisor(context.home.supervisor_socket).processes()}
    name = next((name for name in waiting if states[name].state != "RUNNING"), waiting[0])
    last = tail(context.home.logs / f"{name}.log", TAIL_LINES)
    said = "".join(f"\n  {line}" for line in last) or " nothing"
    others = f" (and {', '.join(other for other in waiting if other != name)})" if len(waiting) > 1 else ""
    return f"{name}{others} is not ready ({states[name].state}); see `microclaw logs {name}`; it said last:{said}"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, for people, the same line once; [] where there is none."""
    from microclaw.cli.log_lines import for_people

    try:
        text = path.read_bytes()[-65536:].decode(errors="replace")
    except FileNotFoundError:
        return []
    return [for_people(line) for line in list(dict.fromkeys(text.splitlines()))[-lines:]]
