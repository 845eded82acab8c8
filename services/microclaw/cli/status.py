"""`microclaw status`: what supervisord knows, what each service says of itself, what failed lately."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import msgspec

from microclaw.bus.supervisor import Process, Supervisor
from microclaw.cli.context import Context, duration
from microclaw.cli.readiness import NOT_ON_BUS, wanted
from microclaw.core.alarms import AGE_S_MAX, Alarm, read_alarms
from microclaw.core.disk import Unwritable, check_writable
from microclaw.core.lanes import LaneState
from microclaw.core.people_requests import Deliveries, DeliveriesAsked, DeliveryRow
from microclaw.core.requests import Failed, RunRow, Runs, RunsAsked, ServiceStatus, StatusAsked

#: Waiting for a service's answer, all asked at the same time.
ANSWER_TIMEOUT_S = 2.0
#: Failed runs and lost replies that are shown.
SHOWN_MAX = 10

UNHEALTHY = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """--deep."""
    parser.add_argument("--deep", action="store_true", help="also what each service tells of itself")


@dataclass
class Seen:
    """One look at the mesh."""

    now_s: float
    #: Without connectors that are not in use.
    processes: list[Process]
    #: By service; a service that did not answer is not in it.
    answers: dict[str, ServiceStatus]
    failed: tuple[RunRow, ...]
    alarms: list[Alarm]
    #: What waits after it could not be run, and is tried again by itself.
    waiting: tuple[RunRow, ...] = ()
    #: Replies of the last day that did not arrive, or may not have.
    undelivered: tuple[DeliveryRow, ...] = ()
    #: Why nothing can be written, "" = it can.
    disk: str = ""

    def trouble(self, process: Process) -> str:
        """What is wrong with this service, "" = nothing."""
        if process.state != "RUNNING":
            return _DOWN.get(process.state, process.state.lower())
        if process.name in NOT_ON_BUS:
            return ""
        answer = self.answers.get(process.name)
        if answer is None:
            return "does not answer"
        return "" if answer.ready else "not ready"

    @property
    def healthy(self) -> bool:
        """Every service runs, is ready and can write. (A failed run is news, not an illness.)"""
        return not self.disk and not any(self.trouble(process) for process in self.processes)


_DOWN = {
    "STOPPED": "stopped", "STARTING": "starting", "BACKOFF": "crashes at its start, tried again",
    "STOPPING": "stopping", "EXITED": "ended", "FATAL": "crashed too often; tried again later",
}


def run(context: Context, options: argparse.Namespace) -> int:
    """Show it. Exit code 0 all well, 3 not running, 5 something is not."""
    seen = asyncio.run(look(context))
    if context.json:
        context.dump(as_json(seen))
    else:
        show(context, seen, deep=options.deep)
    return 0 if seen.healthy else UNHEALTHY


async def look(context: Context) -> Seen:
    """Ask supervisord and all services. Raises NotRunningError."""
    processes = wanted(context, Supervisor(context.home.supervisor_socket).processes())
    answers: dict[str, ServiceStatus] = {}
    failed: tuple[RunRow, ...] = ()
    waiting: tuple[RunRow, ...] = ()
    undelivered: tuple[DeliveryRow, ...] = ()
    if any(process.name == "broker" and process.state == "RUNNING" for process in processes):
        answers, (failed, waiting), undelivered = await _ask_all(context, processes)
    now_s = time.time()
    since_ms = int(now_s - AGE_S_MAX) * 1000
    undelivered = tuple(row for row in undelivered if row.done_ms >= since_ms)
    shown = {process.name for process in processes}
    alarms = [alarm for alarm in read_alarms(context.home, since_ms) if alarm.service in shown]
    try:
        check_writable(context.home.data)
        disk = ""
    except Unwritable as error:
        disk = str(error)
    return Seen(now_s, processes, answers, failed, alarms, waiting, undelivered, disk)


async def _ask_all(
    context: Context, processes: list[Process]
) -> tuple[dict[str, ServiceStatus], tuple[tuple[RunRow, ...], tuple[RunRow, ...]], tuple[DeliveryRow, ...]]:
    from microclaw.bus.client import connect
    from microclaw.bus.errors import BusError

    try:
        bus = await connect(context.home.bus, "cli", timeout_s=ANSWER_TIMEOUT_S)
    except BusError:
        return {}, ((), ()), ()

    async def status_of(name: str) -> ServiceStatus | None:
        try:
            answer = await bus.request(
                name, StatusAsked(), ServiceStatus | Failed, timeout_s=ANSWER_TIMEOUT_S  # type: ignore[arg-type]
            )
        except BusError:
            # That it does not answer is what will be shown.
            return None
        return answer if isinstance(answer, ServiceStatus) else None

    async def failed_and_waiting() -> tuple[tuple[RunRow, ...], tuple[RunRow, ...]]:
        try:
            runs = await bus.request("queue", RunsAsked(), Runs, timeout_s=ANSWER_TIMEOUT_S)
        except (BusError, msgspec.ValidationError):
            return (), ()
        return runs.failed, tuple(row for row in runs.waiting if row.state == LaneState.BACKING_OFF)

    async def undelivered() -> tuple[DeliveryRow, ...]:
        try:
            return (await bus.request("router", DeliveriesAsked(), Deliveries, timeout_s=ANSWER_TIMEOUT_S)).rows
        except (BusError, msgspec.ValidationError):
            return ()

    names = [process.name for process in processes if process.name not in NOT_ON_BUS and process.pid]
    try:
        runs, late, found = await asyncio.gather(
            failed_and_waiting(), undelivered(), asyncio.gather(*map(status_of, names))
        )
    finally:
        await bus.close()
    return {name: answer for name, answer in zip(names, found, strict=True) if answer}, runs, late


def as_json(seen: Seen) -> dict[str, object]:
    """The whole of it, for programs."""
    return {
        "healthy": seen.healthy,
        "services": [
            {
                "name": process.name, "state": process.state, "pid": process.pid or None,
                "since": process.since_s or None, "exit_status": None if process.pid else process.exit_status,
                "trouble": seen.trouble(process) or None, **_said(seen.answers.get(process.name)),
            }
            for process in seen.processes
        ],
        "waiting_runs": [msgspec.to_builtins(row) for row in seen.waiting],
        "failed_runs": [msgspec.to_builtins(row) for row in seen.failed],
        "undelivered": [msgspec.to_builtins(row) for row in seen.undelivered],
        "disk": seen.disk or None,
        "alarms": [msgspec.to_builtins(alarm) for alarm in seen.alarms],
    }


def _said(answer: ServiceStatus | None) -> dict[str, object]:
    if answer is None:
        return {"ready": None, "facts": {}, "troubles": []}
    return {"ready": answer.ready, "facts": answer.facts, "troubles": list(answer.troubles)}


def show(context: Context, seen: Seen, *, deep: bool) -> None:
    """For people."""
    rows, colours = [], []
    for process in seen.processes:
        trouble = seen.trouble(process)
        up = process.state == "RUNNING"
        since = duration(seen.now_s - process.since_s) if process.since_s else "-"
        what = trouble or ("running" if process.name in NOT_ON_BUS else "ready")
        if process.state == "EXITED":
            status = "by a signal" if process.exit_status < 0 else f"with status {process.exit_status}"
            what += f" (ended {status})"
        rows.append((process.name, what, str(process.pid or "-"), f"{'up' if up else 'down'} {since}"))
        colours.append("green" if not trouble else "yellow" if up or process.state == "STARTING" else "red")
    context.table(("SERVICE", "STATE", "PID", "SINCE"), rows, colours)
    for process in seen.processes:
        answer = seen.answers.get(process.name)
        if answer and deep and answer.facts:
            facts = ", ".join(f"{key} {value}" for key, value in sorted(answer.facts.items()))
            print(f"{context.paint(process.name, 'bold')}: {facts}")
        for trouble in (answer.troubles if answer else ())[: None if deep else 3]:
            print(f"{context.paint('!', 'yellow')} {process.name}: {trouble}")
    _show_news(context, seen)


def _show_news(context: Context, seen: Seen) -> None:
    if seen.disk:
        print(f"{context.paint('!', 'red')} {seen.disk}")
    if seen.waiting:
        print(context.paint("runs that wait", "bold"))
        for row in seen.waiting[:SHOWN_MAX]:
            print(f"  {row.group}  for {duration(seen.now_s - row.since_ms / 1000)}: {row.error or 'no reason given'}")
    if seen.failed:
        print(context.paint("failed runs", "bold"))
        for row in seen.failed[:SHOWN_MAX]:
            ago = duration(seen.now_s - row.since_ms / 1000)
            print(f"  {row.group}  {ago} ago, after {row.attempt} tries: {row.error or 'no reason given'}")
    if seen.undelivered:
        print(context.paint("replies that did not arrive", "bold"))
        for reply in seen.undelivered[:SHOWN_MAX]:
            ago = duration(seen.now_s - reply.done_ms / 1000)
            print(f"  {reply.group or reply.chat}  {ago} ago, {reply.state}: {reply.error or 'no reason given'}")
    if seen.alarms:
        print(context.paint("alarms", "bold"))
        # The newest of each service: one that dies for hours tells the same again and again.
        newest = {alarm.service: alarm for alarm in seen.alarms}
        count = Counter(alarm.service for alarm in seen.alarms)
        for alarm in newest.values():
            times = f" ({count[alarm.service]} in a day)" if count[alarm.service] > 1 else ""
            print(f"  {alarm.service}  {duration(seen.now_s - alarm.ts_ms / 1000)} ago{times}: {alarm.detail}")
    if any(seen.trouble(process) for process in seen.processes):
        name = next(process.name for process in seen.processes if seen.trouble(process))
        context.say(f"what happened: microclaw logs {name}")
