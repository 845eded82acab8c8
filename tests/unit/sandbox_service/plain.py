"""A backend without a sandbox, for tests alone: a Python program as a plain subprocess, with the real output bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from microclaw.core.requests import Door
from microclaw.sandbox.backend import Ended, ProbeResult, RunSpec, SandboxError
from microclaw.sandbox.output import Output

#: What every program of these tests begins with: `hear()` gives the host's next line, `say(**fields)` writes one.
PRELUDE = """
import json, os, sys, time
def hear():
    line = sys.stdin.readline()
    if not line: sys.exit(0)
    return json.loads(line)
def say(**fields):
    sys.stdout.write(json.dumps(fields) + "\\n"); sys.stdout.flush()
setup = hear()
say(type="ready", pid=os.getpid())
"""
#: Answers every turn with its prompt.
ECHO = PRELUDE + """
while True:
    turn = hear()
    say(type="turn_done", run_id=turn["run_id"], ok=True, text=turn["prompt"])
"""


class OpenDoors:
    """Doors that lead nowhere; who has one."""

    def __init__(self, folder: Path, backend: str = "") -> None:
        """:param backend: what workers are told to think with."""
        self.folder = folder
        self.open_now: set[str] = set()
        self._backend = backend

    async def open(self, worker_id: str, group: str) -> Door:
        self.open_now.add(worker_id)
        return Door(directory=str(self.folder), backend=self._backend)

    def close(self, worker_id: str) -> None:
        self.open_now.discard(worker_id)


class PlainSandbox:
    """A running program."""

    def __init__(self, spec: RunSpec, process: asyncio.subprocess.Process) -> None:
        self.worker_id = spec.worker_id
        self.process = process
        self._output = Output(spec.limits.output_bytes, self._kill)
        self._ending = asyncio.create_task(self._end())

    async def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        if self.process.returncode is not None:
            raise SandboxError("it has ended")
        try:
            self.process.stdin.write(line)
            await self.process.stdin.drain()
        except ConnectionError as error:
            raise SandboxError("it no longer reads") from error

    async def receive(self) -> bytes | None:
        return await self._output.receive()

    async def kill(self) -> None:
        self._kill()
        await asyncio.shield(self._ending)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ending)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._output.let_go()

    async def _end(self) -> Ended:
        async def read() -> None:
            assert self.process.stdout is not None
            while chunk := await self.process.stdout.read(1 << 16):
                await self._output.stdout(chunk)
            self._output.end()

        await asyncio.gather(read(), self.process.wait())
        code = self.process.returncode or 0
        return Ended(128 - code if code < 0 else code, output_cut=self._output.cut)


class PlainBackend:
    """Runs `program` for every worker."""

    name = "plain"

    def __init__(self, program: str = ECHO) -> None:
        self.program = program
        self.started: list[RunSpec] = []
        self.sandboxes: list[PlainSandbox] = []

    def agent_argv(self) -> list[str]:
        return [sys.executable, "-I", "-S", "-u", "-c", self.program]

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        return ProbeResult(self.name, usable=True)

    async def prepare(self) -> None:
        return

    async def start(self, spec: RunSpec) -> PlainSandbox:
        self.started.append(spec)
        group = next(mount.source for mount in spec.mounts if mount.target == "/workspace/group")
        process = await asyncio.create_subprocess_exec(
            *spec.argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(group),
            env={"PATH": os.environ["PATH"]}, start_new_session=True,
        )
        self.sandboxes.append(PlainSandbox(spec, process))
        return self.sandboxes[-1]

    async def reap(self, installation: str) -> int:
        return 0

    async def clear_away(self, _installation: str) -> int:
        return 0

    async def end(self) -> None:
        """Leave nothing behind."""
        for sandbox in self.sandboxes:
            await sandbox.kill()
