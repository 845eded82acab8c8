"""The live workers: one a group, kept warm between turns, ended when idle for long or when others need the room.

A group that was used lately and whose worker has ended gets a *spare*: a worker started ahead, so that its next turn
finds one ready. A spare takes only room that nobody wants, and is the first to give way. Each is owed to a use of the
group, so one that dies by itself is not started again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microclaw.core.container import Container
from microclaw.core.home import Home
from microclaw.core.settings import Settings
from microclaw.core.turns import Loss, Lost
from microclaw.core.worker import Setup
from microclaw.sandbox.backend import Backend, Limits, Mount, RunSpec, SandboxError
from microclaw.sandbox.doors import Doors
from microclaw.sandbox.extra_mounts import extra_mounts
from microclaw.sandbox.installation import closed_folders
from microclaw.sandbox.mounts import group_mounts
from microclaw.sandbox.worker import Worker, WorkerLost

#: From asking for a worker to having one, at most: well below what the queue gives a grant to begin.
LEASE_WAIT_S_MAX = 540.0
#: From the start of a sandbox to the worker's word that it is ready.
READY_WAIT_S_MAX = 60.0
#: When the service stops: for workers that are being ended already.
END_WAIT_S_MAX = 5.0
#: Of a group's name, in a worker's id; the id is part of a Unix socket's path (`core.home.RUN_DIR_CHARS_MAX`).
SLUG_CHARS_MAX = 20

log = logging.getLogger("microclaw.sandbox")


async def nothing_own(_group: str) -> Container:
    """Where no group has settings of its own."""
    return Container()


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom a worker is for, by the queue's word."""

    group: str
    chat: str
    is_main: bool


@dataclass(slots=True, eq=False)
class _Place:
    """A group's place in the pool."""

    #: Held while somebody has the worker, or it is being started or ended.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker: Worker | None = None
    #: Whom the worker was started for, and what it sees.
    made_for: Tenant | None = None
    mounts: tuple[Mount, ...] = ()
    #: By the loop's clock.
    idle_since_s: float = 0.0
    timer: asyncio.TimerHandle | None = None
    #: Who used it last, and when by the loop's clock; None = nobody since the last spare was started.
    used_by: Tenant | None = None
    used_s: float = 0.0
    #: Starts a spare.
    sparing: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self.worker is not None and not self.lock.locked()

    @property
    def is_spare(self) -> bool:
        """It has a worker that has not had a turn yet, and nobody has it."""
        return self.is_idle and self.worker is not None and not self.worker.turns


class Pool:
    """Starts, lends and ends workers.

    :param backend: gives the backend, or raises EngineMissing.
    :param project: what main sees of MicroClaw itself.
    :param timezone: the owner's, an IANA name.
    :param on_change: told when `facts` may have changed.
    :param own: what a group has of its own.
    :param trouble: tells the owner.
    """

    def __init__(
        self, backend: Callable[[], Awaitable[Backend]], doors: Doors, home: Home, settings: Settings, *,
        installation: str, project: Sequence[Path] = (), timezone: str = "UTC",
        on_change: Callable[[], None] = lambda: None,
        own: Callable[[str], Awaitable[Container]] = nothing_own,
        trouble: Callable[[str], None] = log.warning,
    ) -> None:
        self._backend = backend
        self._doors = doors
        self._home = home
        self._settings = settings
        self._installation = installation
        self._project = project
        #: The owner's, an IANA name.
        self.timezone = timezone
        self._on_change = on_change
        self._own = own
        self._trouble = trouble
        self._places: dict[str, _Place] = {}
        #: Sandboxes that are there or about to be, and who waits until there may be one more.
        self._taken = 0
        self._waiting = 0
        self._started = 0
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        #: No more workers: the service stops. What a worker says of its end from now on is our doing.
        self.closing = False

    @property
    def facts(self) -> dict[str, int]:
        """For `status --deep`: how many live now, how many of them are spares, how many were started in this life."""
        spares = sum(place.is_spare for place in self._places.values())
        return {"workers": self._taken, "workers_spare": spares, "workers_started": self._started}

    @property
    def live(self) -> frozenset[str]:
        """Groups that have a worker now."""
        return frozenset(group for group, place in self._places.items() if place.worker is not None)

    @asynccontextmanager
    async def lease(self, tenant: Tenant) -> AsyncIterator[Worker]:
        """The group's worker, for one user at a time; a new one if there is none.

        :raises SandboxError: there is none to be had; a subclass says whether another try may help.
        :raises WorkerLost: it ended before it was ready.
        """
        place = self._places.setdefault(tenant.group, _Place())
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(LEASE_WAIT_S_MAX):
                    await stack.enter_async_context(place.lock)
                    worker = await self._worker(place, tenant)
            except TimeoutError:
                raise SandboxError(
                    f"no worker could be had within {LEASE_WAIT_S_MAX:.0f} s; look at `microclaw status`"
                ) from None
            place.used_by, place.used_s = tenant, asyncio.get_running_loop().time()
            try:
                yield worker
            finally:
                if self.closing or worker.is_over or worker.is_spent:
                    await self._end(place)
                    self._spare_soon(place)
                else:
                    self._rest(place)

    async def mounts(self, tenant: Tenant, trouble: Callable[[str], None] | None = None) -> list[Mount]:
        """What this group's sandboxes see. :raises SpecRefused: that is no group's name."""
        own = await self._own(tenant.group)
        mounts = group_mounts(self._home, tenant.group, is_main=tenant.is_main, project=self._project)
        return mounts + extra_mounts(
            self._home, own.mounts, is_main=tenant.is_main, trouble=trouble or self._trouble, beside=mounts,
            closed=closed_folders(self._home),
        )

    async def warm(self, tenant: Tenant) -> None:
        """Have a worker ready before it is needed.

        :raises SandboxError: there is none to be had. :raises WorkerLost: it ended before it was ready.
        """
        place = self._places.setdefault(tenant.group, _Place())
        async with place.lock:
            await self._worker(place, tenant)
            self._rest(place)

    async def stop(self, group: str) -> None:
        """End the group's worker in the middle of what it does, by the owner's word."""
        place = self._places.get(group)
        if place is not None and place.worker is not None:
            await place.worker.kill(Lost(Loss.STOPPED))

    async def begin_anew(self, group: str, set_aside: Callable[[], Awaitable[None]]) -> None:
        """End the group's worker as soon as it is idle, and have its session put aside before the next one starts."""
        place = self._places.setdefault(group, _Place())
        async with place.lock:
            await self._end(place)
            await set_aside()
        self._spare_soon(place)

    async def end_idle(self) -> None:
        """End all that are idle, and have no others in their place."""
        for place in list(self._places.values()):
            if place.is_idle:
                async with place.lock:
                    await self._end(place)

    async def close(self) -> None:
        """Kill all workers, also those in the middle of a turn. No new ones are started."""
        self.closing = True
        # First what starts workers: one that is there afterwards is in its place.
        sparing = [place.sparing for place in self._places.values() if place.sparing is not None]
        for task in sparing:
            task.cancel()
        await asyncio.gather(*sparing, return_exceptions=True)
        await asyncio.gather(*map(self._close, self._places.values()), return_exceptions=True)
        # What was being ended before is let end: cut short, it would be left to the next life's reaper.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_WAIT_S_MAX)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside -----------------------------------------------------------------------------------------------

    async def _close(self, place: _Place) -> None:
        if place.is_idle:
            async with place.lock:
                await self._end(place)
        elif place.worker is not None:
            # Who has it clears it away.
            await place.worker.kill()

    async def _worker(self, place: _Place, tenant: Tenant) -> Worker:
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if place.worker is not None and not await self._still_fits(place, tenant):
            await self._end(place)
        if place.worker is None:
            await self._room()
            return await self._take(place, tenant)
        return place.worker

    async def _still_fits(self, place: _Place, tenant: Tenant) -> bool:
        """Its worker takes turns, is for exactly this tenant, and sees what a new one would see: a folder that was
        taken back is taken back from a warm worker too."""
        if place.worker is None or place.worker.is_over or place.made_for != tenant:
            return False
        # What is not mounted was told when the worker was started.
        return place.mounts == tuple(await self.mounts(tenant, trouble=log.debug))

    async def _take(self, place: _Place, tenant: Tenant) -> Worker:
        """A new worker for the place, whose lock is held; there is room."""
        self._taken += 1
        try:
            mounts = await self.mounts(tenant)
            worker = await self._start(tenant, mounts)
        except BaseException:
            self._left()
            raise
        place.worker, place.made_for, place.mounts = worker, tenant, tuple(mounts)
        worker.ended.add_done_callback(lambda _ended: self._on_death(place))
        return worker

    async def _start(self, tenant: Tenant, mounts: list[Mount]) -> Worker:
        if self.closing:
            raise SandboxError("the sandbox service is stopping")
        began_s = time.monotonic()
        worker_id = worker_id_for(tenant.group, os.urandom(4))
        settings = self._settings
        backend = await self._backend()
        try:
            door = await self._doors.open(worker_id, tenant.group)
            sandbox = await backend.start(RunSpec(
                worker_id=worker_id,
                installation=self._installation,
                argv=backend.agent_argv(),
                env={"LANG": "C.UTF-8", "TZ": self.timezone},
                mounts=mounts,
                door=Path(door.directory),
                limits=limits_from(settings),
            ))
            worker = Worker(sandbox, tenant.group)
            try:
                await worker.greet(Setup(
                    group=tenant.group, chat=tenant.chat, is_main=tenant.is_main,
                    assistant_name=settings.assistant.name, timezone=self.timezone,
                    backend=door.backend or "local", model=door.model,
                    max_tokens=settings.model.max_tokens, max_steps=settings.model.max_steps,
                ), READY_WAIT_S_MAX)
            except BaseException:
                await worker.kill()
                raise
        except BaseException:
            self._doors.close(worker_id)
            raise
        self._started += 1
        self._on_change()
        took_ms = round((time.monotonic() - began_s) * 1000)
        log.info("worker started", extra={
            "worker": worker_id, "group": tenant.group, "took_ms": took_ms,
            "mounts": [f"{mount.target}{':rw' if mount.writable else ''}" for mount in mounts],
        })
        return worker

    async def _room(self) -> None:
        """Until there is room for one more. A spare gives way, else the worker that has been idle the longest."""
        self._waiting += 1
        try:
            while self._taken >= self._settings.sandbox.max_workers:
                idle = [place for place in self._places.values() if place.is_idle]
                sparing = [place.sparing for place in self._places.values() if place.sparing is not None]
                if idle:
                    longest = min(idle, key=lambda place: (not place.is_spare, place.idle_since_s))
                    async with longest.lock:
                        await self._end(longest)
                elif sparing:
                    sparing[0].cancel()
                    await asyncio.wait({sparing[0]})
                else:
                    self._freed.clear()
                    await self._freed.wait()
        finally:
            self._waiting -= 1

    def _spare_soon(self, place: _Place) -> None:
        """Its worker has ended: have another one ready if the group is hot."""
        if place.used_by is not None and place.sparing is None and not self.closing:
            place.sparing = self._spawn(self._spare(place))

    async def _spare(self, place: _Place) -> None:
        try:
            async with place.lock:
                tenant, place.used_by = place.used_by, None
                left_s = place.used_s + self._settings.sandbox.spare_s - asyncio.get_running_loop().time()
                is_room = not self._waiting and self._taken < self._settings.sandbox.max_workers
                if tenant is None or place.worker is not None or left_s <= 0 or not is_room:
                    return
                await self._take(place, tenant)
                self._rest(place, left_s)
        except (SandboxError, WorkerLost, OSError) as error:
            # The group's next turn meets the same, and tells.
            log.warning("no spare worker could be started", extra={"why": str(error)})
        finally:
            place.sparing = None

    def _rest(self, place: _Place, ends_in_s: float | None = None) -> None:
        """Its worker is idle from now on; ended after this time, else that of the settings."""
        loop = asyncio.get_running_loop()
        place.idle_since_s = loop.time()
        ends_in_s = self._settings.sandbox.idle_timeout_s if ends_in_s is None else ends_in_s
        place.timer = loop.call_later(ends_in_s, self._spawn_end, place, place.worker)
        # Whoever waits for room may have it now.
        self._freed.set()
        self._on_change()

    def _on_death(self, place: _Place) -> None:
        # While somebody has it, they are the one to clear it away.
        if place.is_idle and not self.closing:
            self._spawn_end(place, place.worker)

    def _spawn_end(self, place: _Place, worker: Worker | None) -> None:
        async def end() -> None:
            async with place.lock:
                if place.worker is worker:
                    await self._end(place)
                    self._spare_soon(place)

        # Somebody who has just taken it again keeps it.
        if place.is_idle:
            self._spawn(end())

    async def _end(self, place: _Place) -> None:
        """The place's lock is held."""
        worker, place.worker = place.worker, None
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if worker is not None:
            try:
                await worker.kill()
            finally:
                self._left()
                self._doors.close(worker.worker_id)

    def _left(self) -> None:
        self._taken -= 1
        self._freed.set()
        self._on_change()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def worker_id_for(group: str, randomness: bytes) -> str:
    """A worker's name: who it is for, as far as `a-z0-9-` can say it, and something of its own."""
    slug = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")[:SLUG_CHARS_MAX].strip("-")
    return f"{slug or 'g'}-{randomness.hex()}"


def limits_from(settings: Settings) -> Limits:
    """What one worker may use."""
    wanted = settings.sandbox
    return Limits(
        memory_bytes=wanted.memory_mb << 20, pids=wanted.pids, cpus=wanted.cpus, tmp_bytes=wanted.tmp_mb << 20,
    )
