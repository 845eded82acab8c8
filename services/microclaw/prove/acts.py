"""The acts of harm, done to a running mesh."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

from microclaw.core.errors import NotRunningError, UnhealthyError
from microclaw.prove import clock, orders
from microclaw.prove.mesh_run import MeshRun, children, kill
from microclaw.prove.plan import Act
from microclaw.prove.throw_away import folder_of

#: Until there is somebody to harm: a service that is just being started has no process, a group no worker.
VICTIM_WAIT_S = 10.0
#: Until a broker that was told to die has come to that commit.
OBEYED_WAIT_S = 20.0
POLL_S = 0.03


class NoVictim(Exception):
    """There was nobody to harm."""


class Acts:
    """Does them. One at a time."""

    def __init__(self, mesh: MeshRun) -> None:
        self._mesh = mesh
        self._orders = folder_of(mesh.home)
        self._clock = self._orders / "clock"
        self._offset_ms = self._highest_ms = 0
        self._kinds: dict[str, Callable[[Act], Awaitable[None]]] = {
            "kill": self._kill, "stop": self._stop, "restart": self._restart, "worker": self._worker,
            "broker-at": self._broker_at, "disk-full": self._disk_full, "power-cut": self._power_cut,
            "clock": self._jump, "supervisord": self._supervisord,
        }

    async def do(self, act: Act) -> float:
        """Do it. Returns from when on the mesh may recover, as a monotonic time: the kill itself, or the end of what
        lasts.

        :raises NoVictim: it could not be done.
        """
        begin = time.monotonic()
        self._harmed = begin
        await self._kinds[act.kind](act)
        return self._harmed

    def now_ms(self) -> int:
        """The mesh's idea of the time."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    def catch_up(self) -> None:
        """Set the clock to the latest it ever showed, so that whatever was promised for then is due."""
        self._set_clock(self._highest_ms)

    # --- each ---------------------------------------------------------------------------------------------------------

    async def _kill(self, act: Act) -> None:
        pid = await self._pid(act.target)
        self._harmed = time.monotonic()
        kill(pid)

    async def _stop(self, act: Act) -> None:
        pid = await self._pid(act.target)
        kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(act.hold_ms / 1000)
        finally:
            kill(pid, signal.SIGCONT)
        self._harmed = time.monotonic()

    async def _restart(self, act: Act) -> None:
        await self._pid(act.target)
        try:
            await asyncio.to_thread(self._mesh.supervisor.stop, act.target)
            self._harmed = time.monotonic()
            await asyncio.to_thread(self._mesh.supervisor.start, act.target)
        except (UnhealthyError, NotRunningError) as error:
            raise NoVictim(f"supervisord could not restart {act.target}: {error}") from error

    async def _worker(self, act: Act) -> None:
        until = time.monotonic() + VICTIM_WAIT_S
        while not (workers := children(await self._pid("sandbox"), "bwrap")):
            if time.monotonic() > until:
                raise NoVictim("no worker was alive")
            await asyncio.sleep(POLL_S)
        self._harmed = time.monotonic()
        kill(random.Random(act.seed).choice(workers))  # noqa: S311 - repeatable, not secret

    async def _broker_at(self, act: Act) -> None:
        pid = await self._pid("broker")
        orders.give(self._orders, orders.Order(what="die", commit=act.commit, point=act.point))
        await self._gone("broker", pid)

    async def _disk_full(self, act: Act) -> None:
        await self._pid("broker")
        orders.give(self._orders, orders.Order(what="full", hold_ms=act.hold_ms))
        await asyncio.sleep(act.hold_ms / 1000)
        orders.withdraw(self._orders)
        self._harmed = time.monotonic()

    async def _power_cut(self, act: Act) -> None:
        pid = await self._pid("broker")
        # Taken up by the next broker, which lives on a file system that forgets what was not synced.
        orders.give(self._orders, orders.Order(what="power", commit=act.commit, point=act.point, seed=act.seed))
        kill(pid)
        await self._gone("broker", pid)
        await self._gone("broker", await self._pid("broker"))

    async def _jump(self, act: Act) -> None:
        self._set_clock(self._offset_ms + act.jump_ms)

    async def _supervisord(self, _act: Act) -> None:
        await asyncio.to_thread(self._mesh.kill_supervisord)
        self._harmed = time.monotonic()
        self._mesh.start()
        await self._mesh.ready()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _set_clock(self, offset_ms: int) -> None:
        self._offset_ms = offset_ms
        self._highest_ms = max(self._highest_ms, offset_ms)
        clock.set_to(self._clock, offset_ms)

    async def _pid(self, service: str) -> int:
        until = time.monotonic() + VICTIM_WAIT_S
        while True:
            try:
                if pid := await asyncio.to_thread(self._mesh.pid, service):
                    return pid
            except (NotRunningError, UnhealthyError) as error:
                raise NoVictim(f"supervisord does not answer: {error}") from error
            if time.monotonic() > until:
                raise NoVictim(f"{service} had no process for {VICTIM_WAIT_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def _gone(self, service: str, pid: int) -> None:
        until = time.monotonic() + OBEYED_WAIT_S
        while await asyncio.to_thread(self._mesh.pid, service) == pid:
            if time.monotonic() > until:
                orders.withdraw(self._orders)
                raise NoVictim(f"{service} did not come to the commit at which it was to die")
            await asyncio.sleep(POLL_S)
        self._harmed = time.monotonic()
