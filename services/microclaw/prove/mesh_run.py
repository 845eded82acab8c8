"""One running installation under a real supervisord, as our child: to trouble it, and to ask it.

    run = MeshRun({"MICROCLAW_HOME": "/tmp/somewhere"})
    run.start()
    await run.ready()
    run.kill("broker")
    ...
    run.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from microclaw.bus.api import Bus
from microclaw.bus.client import connect
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.bus.supervisor import Process, Supervisor
from microclaw.cli import readiness
from microclaw.cli.asking import refusal
from microclaw.cli.context import Context
from microclaw.core.errors import NotRunningError
from microclaw.core.home import Home, home_from
from microclaw.core.requests import ANSWERED_BY, Failed, Read, Request

#: Until every service works, on a busy machine.
READY_TIMEOUT_S = 60.0
#: Until a question is answered, however often the broker or the service goes away.
ASK_TIMEOUT_S = 60.0
#: One try of a question.
TRY_S = 5.0
STOP_TIMEOUT_S = 30.0
#: What is still there so long after supervisord's end is an orphan.
ORPHAN_WAIT_S = 10.0
POLL_S = 0.05

T = TypeVar("T")


class MeshRun:
    """An installation's processes and the way to them. `env` names the installation (`MICROCLAW_HOME`)."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        self.home: Home = home_from(self.env)
        self.context = Context(env=self.env, quiet=True)
        self.supervisor = Supervisor(self.home.supervisor_socket)
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, Bus] = {}

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """`microclaw up`, as our child; returns at once."""
        with (self.home.logs / "up.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "microclaw.cli", "up"], env=self.env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, preexec_fn=_die_with_us,
            )

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until every service says that it works. :raises UnhealthyError: not in time; says which and why."""
        await readiness.ready(self.context, self._process, timeout_s)

    def end(self) -> dict[int, str]:
        """End it all. Returns what was left behind by itself and had to be killed: pid → command line."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        left = self.orphans()
        for pid in left:
            kill(pid)
        return left

    def kill_supervisord(self) -> None:
        """kill -9 supervisord itself. `start` may follow at once."""
        if self._process is None:
            raise NotRunningError("supervisord was not started here")
        self._process.kill()
        self._process.wait()
        self._process = None

    def orphans(self, wait_s: float = ORPHAN_WAIT_S) -> dict[int, str]:
        """Processes of this installation that are there `wait_s` from now: pid → command line (Linux only)."""
        until = time.monotonic() + wait_s
        while (found := processes_of(self.home)) and time.monotonic() < until:
            time.sleep(POLL_S)
        return found

    async def close(self) -> None:
        """Close the bus clients that were opened here."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    # --- processes --------------------------------------------------------------------------------------------------

    def process(self, service: str) -> Process:
        """A service as supervisord sees it."""
        return next(process for process in self.supervisor.processes() if process.name == service)

    def pid(self, service: str) -> int:
        """A service's process id, 0 = it has none now."""
        return self.process(service).pid

    def kill(self, service: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a service's process a signal. Returns its pid, 0 = there was none."""
        pid = self.pid(service)
        if pid:
            kill(pid, number)
        return pid

    # --- the bus ----------------------------------------------------------------------------------------------------

    async def bus(self, name: str = "cli") -> Bus:
        """A bus client of this name; the same one for the same name, closed at the end."""
        if name not in self._clients:
            self._clients[name] = await connect(self.home.bus, name, timeout_s=READY_TIMEOUT_S)
        return self._clients[name]

    async def ask(
        self, question: Request, answer: type[T], timeout_s: float = ASK_TIMEOUT_S, *, name: str = "cli"
    ) -> T:
        """Ask whoever answers this, again and again while the service or the broker is away.

        :raises MicroclawError: it was refused. :raises BusError: there was no answer in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            try:
                found = await (await self.bus(name)).request(
                    ANSWERED_BY[type(question)], question, answer | Failed,  # type: ignore[arg-type]
                    timeout_s=TRY_S + (question.wait_ms / 1000 if isinstance(question, Read) else 0.0),
                )
            except (NoResponder, BusTimeout):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            if isinstance(found, Failed):
                raise refusal(found)
            return found


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes_of(home: Home) -> dict[int, str]:
    """Processes that carry this installation's paths in their environment or command line (Linux: `/proc`)."""
    marks = (f"MICROCLAW_RUN={home.run}\0".encode(), str(home.state).encode(), str(home.run).encode())
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            command = (folder / "cmdline").read_bytes()
            environ = (folder / "environ").read_bytes() + b"\0"
        except OSError:
            # It ended meanwhile, or is another user's.
            continue
        ours = marks[0] in environ or any(mark in command for mark in marks[1:])
        if ours and command and pid != os.getpid():
            found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    return found


def children(parent: int, name: str) -> list[int]:
    """A process's children that run a program of this name, by pid (Linux: `/proc`)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # "pid (name) state ppid …"; the name may hold anything but ends with the last parenthesis.
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if before.partition("(")[2] == name and int(after.split()[1]) == parent:
            found.append(int(folder.name))
    return sorted(found)


def _die_with_us() -> None:
    """In the child: whoever is killed takes supervisord, and so the mesh, with it (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
