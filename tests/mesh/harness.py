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
import os
import shutil
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
from microclaw.cli.supervisord import configuration, environment
from microclaw.core.requests import ConsoleLine, Lines, Read, Request, Said, Say
from microclaw.prove.mesh_run import MeshRun

#: The services, `watch` not counted: it is not on the bus.
SERVICES = ("broker", "router", "queue", "scheduler", "sandbox", "egress", "console")
REPLY_TIMEOUT_S = 60.0
TAIL_LINES = 40

T = TypeVar("T")


class Mesh(MeshRun):
    """One running installation. Use it as a context manager, `async with` (waits until ready) or `with`."""

    def __init__(self, config: str = "", env: Mapping[str, str] | None = None, *, home: Path | None = None) -> None:
        #: Short: Unix sockets have short paths. A given `home` is kept at the end.
        self.root = home or Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self._keep = home is not None
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MICROCLAW_")}
        super().__init__(inherited | {"MICROCLAW_HOME": str(self.root)} | dict(env or {}))
        self.home.create()
        self.home.config.write_text(config + OPEN_BUS)
        self.home.config.chmod(0o600)

    # --- life -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it all, and see that nothing is left. Raises AssertionError: something was."""
        left = self.end()
        assert not left, f"left behind: {left}"

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
        return await super().bus(name)

    async def ask(
        self, question: Request, answer: type[T], timeout_s: float = REPLY_TIMEOUT_S, *, name: str = "test"
    ) -> T:
        """Ask whoever answers this, again and again while the service or the broker is away."""
        return await super().ask(question, answer, timeout_s, name=name)

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
