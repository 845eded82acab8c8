"""The scheduler service: sleeps until the next task is due, fires it, hears how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import Engine

from microclaw.bus.api import Delivery, Draft, Subscription
from microclaw.bus.errors import BusTimeout, NoResponder, Refused
from microclaw.bus.service import Service, now_ms
from microclaw.core.heartbeat import active_hours
from microclaw.core.requests import (
    ChangeTask,
    CreateTask,
    Failed,
    FireTask,
    Group,
    Groups,
    GroupsAsked,
    Runs,
    RunsAsked,
    TaskAnswer,
    TaskRuns,
    TaskRunsAsked,
    Tasks,
    TasksAsked,
)
from microclaw.scheduler.commands import COMMAND_ID_CHARS_MAX, Commands, row_of
from microclaw.scheduler.firing import Firing
from microclaw.scheduler.heartbeat import keep_heartbeat
from microclaw.scheduler.store import FIRED, WAITING
from microclaw.scheduler.zone import owner_zone
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS

#: Longest sleep: a clock set forward is noticed by then. (Sleeping until a moment would sleep through it.)
SLEEP_S_MAX = 1.0
#: A clock set back by more than this makes next times be reckoned anew.
SET_BACK_MS = 60_000
#: Pause before what the bus refused for the moment is sent again.
RESEND_S = 5.0
#: How long the router may take to say which groups there are, before tasks fire without knowing.
GROUPS_S = 1.0
#: How long the queue may take to say what runs, and how many that can be.
QUEUE_S = 1.0
RUNNING_MAX = 500
#: Until the router knows a main group, it is asked so often.
GROUPS_AGAIN_S = 2.0
#: How often old rows are deleted, and fires without an end given up.
TIDY_S = 3600


class Scheduler:
    """Firing on the bus."""

    def __init__(self, service: Service, firing: Firing, commands: Commands) -> None:
        self._service = service
        self._firing = firing
        self._commands = commands
        self._changed = asyncio.Event()
        self._unsent = asyncio.Event()
        self._groups: tuple[Group, ...] | None = None

    async def on_finished(self, delivery: Delivery) -> Sequence[Draft]:
        cause = delivery.envelope.message_id
        if self._firing.finished(delivery.envelope):
            self._changed.set()
        return await self._firing.outbox.with_ack(self._service.bus, cause)

    async def on_create(self, command: CreateTask, _asker: str) -> msgspec.Struct:
        answer = self._commands.create(command)
        self._changed.set()
        return answer

    async def on_change(self, command: ChangeTask, _asker: str) -> msgspec.Struct:
        answer = self._commands.change(command)
        self._changed.set()
        self._unsent.set()
        return answer

    async def on_fire(self, command: FireTask, _asker: str) -> msgspec.Struct:
        if not 0 < len(command.command_id) <= COMMAND_ID_CHARS_MAX:
            return Failed(reason=f"command_id must have 1 to {COMMAND_ID_CHARS_MAX} characters")
        task = self._firing.fire_now(command.command_id, command.task_id, await self._registered())
        if isinstance(task, Failed):
            return task
        self._unsent.set()
        return TaskAnswer(task=row_of(task))

    async def on_runs(self, question: TaskRunsAsked, _asker: str) -> msgspec.Struct:
        answer = self._commands.runs(question)
        if isinstance(answer, Failed) or not any(row.status == WAITING for row in answer.runs):
            return answer
        # Whether what waited runs by now the queue knows.
        running = await self._running()
        return TaskRuns(runs=tuple(
            msgspec.structs.replace(row, status=FIRED, result="") if row.run_id in running else row
            for row in answer.runs
        ))

    async def on_tasks(self, question: TasksAsked, _asker: str) -> Tasks:
        return self._commands.list(question)

    async def keep_time(self) -> None:
        """Fire what is due, then sleep until the next is, or something changes."""
        # It may have been set back while we were not there.
        self._firing.clock_went_back()
        offset = _offset_ms()
        while not self._service.stopping.is_set():
            self._changed.clear()
            if _offset_ms() < offset - SET_BACK_MS:
                self._service.log.warning("the clock was set back")
                self._firing.clock_went_back()
            offset = _offset_ms()
            due = self._firing.due()
            if due:
                self._firing.fire(due, await self._registered())
                self._unsent.set()
                continue
            next_ms = self._firing.next_due_ms()
            self._service.facts["next_run_ms"] = next_ms or 0
            pause = SLEEP_S_MAX if next_ms is None else min(SLEEP_S_MAX, max(0.0, (next_ms - now_ms()) / 1000))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)

    async def send(self) -> None:
        """Publish what fired, in order; first what an earlier life left."""
        while True:
            self._unsent.clear()
            try:
                for refusal in await self._firing.outbox.flush(self._service.bus):
                    self._service.trouble(f"the bus refused a task's run for ever: {refusal}")
            except Refused as refused:
                self._service.trouble(f"the bus takes no task's run at the moment: {refused}")
                await asyncio.sleep(RESEND_S)
                continue
            await self._unsent.wait()

    async def tidy(self) -> None:
        """Now and then: give up fires without an end, forget old rows."""
        while True:
            if self._firing.give_up():
                self._unsent.set()
                self._changed.set()
            self._firing.forget()
            await asyncio.sleep(TIDY_S)

    async def keep_heartbeat(self, engine: Engine, zone: str) -> None:
        """See that there is one for the main group, as configured, as soon as the router knows that group."""
        every_min = self._service.settings.heartbeat.every_min
        while True:
            await self._registered()
            main = next((group for group in self._groups or () if group.is_main), None)
            if keep_heartbeat(engine, main, every_min, zone, now_ms):
                self._changed.set()
            await asyncio.sleep(TIDY_S if main or not every_min else GROUPS_AGAIN_S)

    async def _running(self) -> frozenset[str]:
        """Runs that are under way, none if the queue does not answer."""
        try:
            answer = await self._service.bus.request(
                "queue", RunsAsked(limit=RUNNING_MAX), Runs | Failed, timeout_s=QUEUE_S,  # type: ignore[arg-type]
            )
        except (BusTimeout, NoResponder):
            return frozenset()
        return frozenset(row.run_id for row in answer.running) if isinstance(answer, Runs) else frozenset()

    async def _registered(self) -> frozenset[str] | None:
        """The registered groups' folders, as the router says now; None = it does not answer. What it said before is no
        reason to pause a task: the group may have been registered since."""
        try:
            answer = await self._service.bus.request(
                "router", GroupsAsked(), Groups | Failed, timeout_s=GROUPS_S,  # type: ignore[arg-type]
            )
        except (BusTimeout, NoResponder) as error:
            self._service.log.warning("the router does not say which groups there are", extra={"why": str(error)})
            return None
        if not isinstance(answer, Groups):
            return None
        self._groups = answer.groups
        return frozenset(group.folder for group in answer.groups)


def _offset_ms() -> int:
    """What the clock is ahead of the machine's uptime: it changes when the clock is set."""
    return int((time.time() - time.monotonic()) * 1000)


async def serve(service: Service) -> None:
    """Run until told to stop."""
    engine = open_store(service.home.database("scheduler"), HEADS["scheduler"])
    zone = owner_zone(service.settings.assistant.timezone)
    service.facts["timezone"] = zone
    firing = Firing(
        engine, wall=now_ms, trouble=service.trouble, log=service.log,
        heartbeat_hours=active_hours(service.settings.heartbeat.active_hours),
    )
    scheduler = Scheduler(service, firing, Commands(engine, firing.outbox, wall=now_ms, owner_zone=zone))
    service.spawn(scheduler.send(), "send fires")
    service.consume(
        Subscription("scheduler", ("run.finished",)), scheduler.on_finished, settled=firing.outbox.settled,
    )
    service.answer(CreateTask, scheduler.on_create)
    service.answer(ChangeTask, scheduler.on_change)
    service.answer(TasksAsked, scheduler.on_tasks)
    service.answer(FireTask, scheduler.on_fire)
    service.answer(TaskRunsAsked, scheduler.on_runs)
    service.spawn(scheduler.tidy(), "tidy")
    service.spawn(scheduler.keep_heartbeat(engine, zone), "keep heartbeat")
    service.spawn(scheduler.keep_time(), "keep time")
    await service.ready()
    await service.stopping.wait()
