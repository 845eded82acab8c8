"""The whole mesh, under a real supervisord, in a home of its own.

    async with Mesh('[queue]\\nmax_concurrent = 2') as mesh:
        await mesh.say("console:main", "hello")
        replies = await mesh.replies("console:main", 1)
        mesh.kill("broker")

What it starts it ends, whatever happens; a process that is left over afterwards fails the test. When the test failed,
the ends of the logs are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.broker_process import OPEN_BUS

from microclaw.bus.api import Bus
from microclaw.bus.client import connect
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.bus.supervisor import Process, Supervisor
from microclaw.cli import readiness
from microclaw.cli.context import Context
from microclaw.cli.supervisord import configuration, environment
from microclaw.core.home import Home, home_from
from microclaw.core.requests import ANSWERED_BY, ConsoleLine, Failed, Lines, Read, Request, Said, Say

#: The services, `watch` not counted: it is not on the bus.
SERVICES = ("broker", "router", "queue", "scheduler", "sandbox", "egress", "console")
READY_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
#: What is still there so long after supervisord's end is an orphan.
ORPHAN_WAIT_S = 10.0
TAIL_LINES = 40

T = TypeVar("T")


class Mesh:
    """One running installation. Use it as a context manager, `async with` (waits until ready) or `with`."""

    def __init__(self, config: str = "", env: Mapping[str, str] | None = None, *, home: Path | None = None) -> None:
        #: Short: Unix sockets have short paths. A given `home` is kept at the end.
        self.root = home or Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self._keep = home is not None
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MICROCLAW_")}
        self.env = inherited | {"MICROCLAW_HOME": str(self.root)} | dict(env or {})
        self.home: Home = home_from(self.env)
        self.context = Context(env=self.env, quiet=True)
        self.supervisor = Supervisor(self.home.supervisor_socket)
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, Bus] = {}
        self.home.create()
        self.home.config.write_text(config + OPEN_BUS)
        self.home.config.chmod(0o600)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """`microclaw up`, as our child; returns at once."""
        with (self.home.logs / "up.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "microclaw.cli", "up"], env=self.env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, preexec_fn=_die_with_us,
            )

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until every service says that it works."""
        await readiness.ready(self.context, self._process, timeout_s)

    def stop(self) -> None:
        """End it all, and see that nothing is left. Raises AssertionError: something was."""
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
            _kill(pid)
        assert not left, f"left behind: {left}"

    def kill_supervisord(self) -> None:
        """kill -9 supervisord itself. `start` may follow at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def orphans(self, wait_s: float = ORPHAN_WAIT_S) -> dict[int, str]:
        """Processes of this installation that are there `wait_s` from now: pid → command line (Linux only)."""
        until = time.monotonic() + wait_s
        while (found := _processes_of(self.home)) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    async def close(self) -> None:
        """Close the bus clients that were opened here."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def __aenter__(self) -> Mesh:
        self.start()
        try:
            await self.ready()
        except BaseException:
            self._end(failed=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()
        await asyncio.to_thread(self._end, failed=kind is not None)

    def __enter__(self) -> Mesh:
        self.start()
        try:
            asyncio.run(self.ready())
        except BaseException:
            self._end(failed=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end(failed=kind is not None)

    def _end(self, *, failed: bool) -> None:
        try:
            self.stop()
        except BaseException:
            failed = True
            raise
        finally:
            if failed:
                self.print_logs()
            if not self._keep and not (failed and os.environ.get("MC_KEEP")):
                shutil.rmtree(self.root, ignore_errors=True)
                if self.home.run.parent != self.root:
                    shutil.rmtree(self.home.run, ignore_errors=True)

    # --- processes --------------------------------------------------------------------------------------------------

    def process(self, service: str) -> Process:
        """A service as supervisord sees it."""
        return next(process for process in self.supervisor.processes() if process.name == service)

    def pid(self, service: str) -> int:
        """A service's process id, 0 = it has none now."""
        return self.process(service).pid

    def kill(self, service: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill a service's process (-9 unless told otherwise). Returns its pid, 0 = there was none to kill."""
        pid = self.pid(service)
        if pid:
            _kill(pid, number)
        return pid

    async def restart(self, service: str) -> None:
        """`supervisorctl restart`, the real one."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", str(configuration()), "restart", service,
            env=environment(self.home, self.env), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, f"supervisorctl restart {service}: {said.decode()}"

    def cli(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `microclaw …` on this installation."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "microclaw.cli", *arguments], env=self.env, input=stdin, text=True,
            capture_output=True, timeout=timeout_s, check=False,
        )

    def log(self, service: str) -> str:
        """A service's log so far."""
        path = self.home.logs / f"{service}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def print_logs(self) -> None:
        """The end of every log, for whoever looks at a failed test."""
        for path in sorted(self.home.logs.glob("*.log")):
            if lines := path.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
                print(f"--- {path.name}", *lines, sep="\n", file=sys.stderr)

    # --- the bus ----------------------------------------------------------------------------------------------------

    async def bus(self, name: str = "test") -> Bus:
        """A bus client of this name; the same one for the same name, closed at the end."""
        if name not in self._clients:
            self._clients[name] = await connect(self.home.bus, name, timeout_s=READY_TIMEOUT_S)
        return self._clients[name]

    async def ask(self, question: Request, answer: type[T], timeout_s: float = REPLY_TIMEOUT_S) -> T:
        """Ask whoever answers this, again and again while the service or the broker is away."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                found = await (await self.bus()).request(
                    ANSWERED_BY[type(question)], question, answer | Failed,  # type: ignore[arg-type]
                    timeout_s=5.0 + _wait_s(question),
                )
            except (NoResponder, BusTimeout):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.05)
                continue
            assert not isinstance(found, Failed), f"{question}: {found.reason}"
            return found

    async def say(self, chat: str, text: str, *, platform_id: str = "", sender: str = "owner") -> Said:
        """Write in a console chat; returns when the journal has it. The same `platform_id` is one message."""
        return await self.ask(
            Say(chat=chat, text=text, platform_id=platform_id or uuid.uuid4().hex, sender=sender), Said
        )

    async def replies(
        self, chat: str, count: int = 0, *, after: int = 0, timeout_s: float = REPLY_TIMEOUT_S
    ) -> list[ConsoleLine]:
        """The lines of a chat after number `after`, as soon as there are `count` of them."""
        until = time.monotonic() + timeout_s
        lines: list[ConsoleLine] = []
        while True:
            last = lines[-1].number if lines else after
            wait_ms = 1000 if len(lines) < count else 0
            found = (await self.ask(Read(chat=chat, after=last, wait_ms=wait_ms), Lines, timeout_s)).lines
            lines += found
            if len(lines) >= count and not found:
                return lines
            assert time.monotonic() < until, f"{chat}: {len(lines)} of {count} lines after {timeout_s} s: {lines}"

    async def answer(self, chat: str, text: str, *, timeout_s: float = REPLY_TIMEOUT_S) -> str:
        """Say something in a quiet chat, return the text of the next line."""
        last = (await self.ask(Read(chat=chat, only_last=True), Lines)).last
        await self.say(chat, text)
        return (await self.replies(chat, 1, after=last, timeout_s=timeout_s))[0].text


def _wait_s(question: Request) -> float:
    return question.wait_ms / 1000 if isinstance(question, Read) else 0.0


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _die_with_us() -> None:
    """In the child: a pytest that is killed takes supervisord, and so the mesh, with it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _processes_of(home: Home) -> dict[int, str]:
    """Processes that carry this installation's paths in their environment or command line."""
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


