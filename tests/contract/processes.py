"""Real service processes in a home of their own: started, killed with -9, and asked over the real bus."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from tests.broker_process import OPEN_BUS

from microclaw.bus.api import Bus
from microclaw.bus.client import connect
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.core.home import home_from
from microclaw.core.requests import ServiceStatus, StatusAsked
from microclaw.store.migrate import upgrade

#: Generous: several people may work on the machine.
DEADLINE_S = 60.0

Answer = TypeVar("Answer")


class Installation:
    """A temporary installation and the processes of it that a test started."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: a Unix socket's path must be short.
        self.root = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self.env = os.environ | {"MICROCLAW_HOME": str(self.root), "PYTHONUNBUFFERED": "1"}
        self.home = home_from(self.env)
        self.home.create()
        self.home.config.write_text(OPEN_BUS)
        self.home.config.chmod(0o600)
        upgrade(self.home)
        #: Modules (and arguments) of services that are not `microclaw.<name>`.
        self.programs: dict[str, list[str]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._buses: list[Bus] = []

    def start(self, name: str) -> None:
        log = (self.home.logs / f"{name}.log").open("ab")
        program = self.programs.get(name, [f"microclaw.{name}"])
        self._running[name] = subprocess.Popen(
            [sys.executable, "-m", *program], env=self.env, stdout=log, stderr=log
        )
        log.close()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """kill -9, or by another signal that ends it."""
        process = self._running.pop(name)
        process.send_signal(number)
        process.wait(DEADLINE_S)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit status."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(DEADLINE_S)

    async def connect(self, name: str) -> Bus:
        bus = await connect(self.home.bus, name, timeout_s=DEADLINE_S)
        self._buses.append(bus)
        return bus

    async def ready(self, bus: Bus, name: str) -> ServiceStatus:
        return await ask(bus, name, StatusAsked(), ServiceStatus)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        for name in list(self._running):
            self.kill(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def log(self, name: str) -> str:
        return (self.home.logs / f"{name}.log").read_text()


@asynccontextmanager
async def installation(*services: str) -> AsyncIterator[Installation]:
    """An installation with these services running; on a failure their logs are printed."""
    made = Installation()
    try:
        for name in services:
            made.start(name)
        yield made
    except BaseException:
        for log in sorted(made.home.logs.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        await made.close()


@asynccontextmanager
async def killed_again_and_again(
    made: Installation, name: str, bus: Bus, chance: random.Random, *, ready_s_max: float = 0.5
) -> AsyncIterator[list[int]]:
    """Meanwhile the service is killed with -9 and started, ready for up to `ready_s_max` each. Yields the pids."""
    killed: list[int] = []

    async def kill() -> None:
        while True:
            status = await made.ready(bus, name)
            await asyncio.sleep(chance.random() * ready_s_max)
            made.kill(name)
            made.start(name)
            killed.append(status.pid)

    killing = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing


async def ask(bus: Bus, service: str, question: msgspec.Struct, answer: type[Answer]) -> Answer:
    """Ask until it answers: the service may just be starting, or have been killed."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await bus.request(service, question, answer, timeout_s=5.0)
            except (NoResponder, BusTimeout):
                await asyncio.sleep(0.05)


async def until(condition: Callable[[], Awaitable[bool] | bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(deadline_s):
        while True:
            held = condition()
            if held is True or (not isinstance(held, bool) and await held):
                return
            await asyncio.sleep(0.02)
