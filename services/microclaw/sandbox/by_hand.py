"""What the owner does by hand: look at the sandbox, and run a command in one as a group's agent would."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from microclaw.bus.api import Draft
from microclaw.bus.errors import BusError
from microclaw.bus.service import Service
from microclaw.core.kinds import AuditEntry
from microclaw.core.requests import Done, Failed, Group, Groups, GroupsAsked
from microclaw.core.sandbox_requests import (
    CommandOutput,
    CommandStarted,
    ExplainSandbox,
    MountRow,
    ReadCommand,
    SandboxAsked,
    SandboxExplained,
    SandboxState,
    StartCommand,
    StopCommand,
)
from microclaw.sandbox.backend import Ended, EngineMissing, RunSpec, Sandbox, SandboxError
from microclaw.sandbox.doors import Doors
from microclaw.sandbox.pool import Pool, Tenant, limits_from, worker_id_for
from microclaw.sandbox.readiness import Readiness

#: Who may run commands: nobody but the owner, whose commands come by this name.
OWNER = "cli"
#: Commands by hand at the same time.
COMMANDS_MAX = 4
#: Of one answer, so that it fits into a frame.
PART_BYTES_MAX = 256 << 10
#: An answer waits so long at most, and a command whose output is not asked for is ended after this.
WAIT_MS_MAX = 5_000
UNREAD_S_MAX = 30.0
#: How long the router is waited for.
ASK_S = 5.0
#: Both streams as one, in the order in which they are written; nobody answers its questions. The agent's program runs
#: it, so that it has the relay to egress.
_TOGETHER = ("/bin/sh", "-c", 'exec "$@" </dev/null 2>&1', "sh")

log = logging.getLogger("microclaw.sandbox")


@dataclass(slots=True, eq=False)
class _Command:
    sandbox: Sandbox
    #: By the loop's clock.
    asked_s: float
    part: int = -1
    answer: CommandOutput | None = None
    lines: list[bytes] = field(default_factory=list)
    reader: asyncio.Task[bytes | None] | None = None
    #: Held by the one answer that reads on.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    why: str = ""
    watch: asyncio.Task[None] | None = None


class ByHand:
    """Answers `microclaw sandbox …`."""

    def __init__(self, service: Service, readiness: Readiness, pool: Pool, doors: Doors, installation: str) -> None:
        self._service = service
        self._readiness = readiness
        self._pool = pool
        self._doors = doors
        self._installation = installation
        self._commands: dict[str, _Command] = {}
        self._starting = 0

    def register(self) -> None:
        """Answer all of them."""
        answers: dict[type, Callable[..., Awaitable[object]]] = {
            SandboxAsked: self.state, ExplainSandbox: self.explain, StartCommand: self.start, ReadCommand: self.read,
            StopCommand: self.stop_one,
        }
        for question, handler in answers.items():
            self._service.answer(question, handler)  # type: ignore[arg-type]

    async def state(self, _question: SandboxAsked, _asker: str) -> SandboxState:
        """The backend, and what was measured."""
        facts = self._service.facts
        backend = await self._backend()
        measured = {
            name.removeprefix("probe_"): str(value) for name, value in facts.items() if name.startswith("probe_")
        }
        return SandboxState(
            backend=backend, workers=self._pool.facts["workers"],
            measured=measured if backend else {}, trouble="" if backend else self._readiness.why_not,
        )

    async def explain(self, question: ExplainSandbox, _asker: str) -> SandboxExplained | Failed:
        """What the group's next worker would be given."""
        group = await self._group(question.group)
        if isinstance(group, Failed):
            return group
        settings = self._service.settings.sandbox
        limits = limits_from(self._service.settings)
        mounts = await self._pool.mounts(_tenant(group))
        return SandboxExplained(
            group=group.folder, chat=group.chat, is_main=group.is_main, backend=await self._backend(),
            mounts=tuple(MountRow(target=m.target, source=str(m.source), writable=m.writable) for m in mounts),
            limits={
                "memory_mb": limits.memory_bytes >> 20, "pids": limits.pids, "cpus": limits.cpus,
                "tmp_mb": limits.tmp_bytes >> 20, "output_mb": limits.output_bytes >> 20,
                "open_files": limits.open_files,
            },
            idle_timeout_s=settings.idle_timeout_s, run_timeout_s=settings.run_timeout_s,
        )

    async def start(self, question: StartCommand, asker: str) -> CommandStarted | Failed:
        """A fresh sandbox, apart from the group's worker."""
        if asker != OWNER:
            return Failed(reason=f"{asker} may not run commands: only the owner at the command line", code="denied")
        group = await self._group(question.group)
        if isinstance(group, Failed):
            return group
        if self._starting + len(self._commands) >= COMMANDS_MAX:
            return Failed(reason=f"{COMMANDS_MAX} commands run already: end one first", code="conflict")
        worker_id = worker_id_for(f"run-{group.folder}", os.urandom(4))
        entry = AuditEntry(
            actor=asker, action="sandbox.run", subject=f"{worker_id}@{group.folder}", outcome="ok",
            detail=" ".join(question.argv)[:300],
        )
        await self._service.bus.publish(Draft("service:sandbox", entry))
        self._starting += 1
        try:
            sandbox = await self._start(group, worker_id, question.argv)
        except BaseException:
            self._doors.close(worker_id)
            raise
        finally:
            self._starting -= 1
        command = _Command(sandbox, asyncio.get_running_loop().time())
        self._commands[worker_id] = command
        command.watch = asyncio.create_task(self._watch(worker_id, command))
        return CommandStarted(run_id=worker_id)

    async def read(self, question: ReadCommand, asker: str) -> CommandOutput | Failed:
        """The next part of its output, or the same again."""
        command = self._commands.get(question.run_id) if asker == OWNER else None
        if command is None:
            return Failed(reason=f"no command {question.run_id[:40]!r} runs", code="not_found")
        async with command.lock:
            command.asked_s = asyncio.get_running_loop().time()
            if question.part == command.part and command.answer is not None:
                return command.answer
            if command.answer is not None and command.answer.ended:
                return command.answer
            command.answer = await self._next(command, min(question.wait_ms, WAIT_MS_MAX) / 1000)
            command.part = question.part
            return command.answer

    async def stop_one(self, question: StopCommand, asker: str) -> Done:
        """The person at the terminal has gone, or seen the end."""
        if asker == OWNER:
            await self._end(question.run_id, "stopped")
        return Done()

    async def close(self) -> None:
        """The service stops."""
        for run_id in list(self._commands):
            await self._end(run_id, "the sandbox service is stopping")

    # --- inside -----------------------------------------------------------------------------------------------

    async def _backend(self) -> str:
        """Its name, "" = none works, or it is still being looked for."""
        with contextlib.suppress(EngineMissing, TimeoutError):
            async with asyncio.timeout(ASK_S):
                return (await self._readiness.get()).name
        return ""

    async def _group(self, name: str) -> Group | Failed:
        try:
            known = await self._service.bus.request("router", GroupsAsked(), Groups, timeout_s=ASK_S)
        except BusError:
            return Failed(reason="the router does not answer; look at `microclaw status`", code="unavailable")
        found = next((group for group in known.groups if group.folder == name), None)
        names = ", ".join(group.folder for group in known.groups)
        return found or Failed(reason=f"there is no group {name[:64]!r}, only: {names}", code="not_found")

    async def _start(self, group: Group, worker_id: str, argv: tuple[str, ...]) -> Sandbox:
        backend = await self._readiness.get()
        mounts = await self._pool.mounts(_tenant(group))
        door = await self._doors.open(worker_id, group.folder)
        return await backend.start(RunSpec(
            worker_id=worker_id, installation=self._installation, argv=[*backend.agent_argv(), *_TOGETHER, *argv],
            env={"LANG": "C.UTF-8", "TZ": self._pool.timezone}, mounts=mounts, door=Path(door.directory),
            limits=limits_from(self._service.settings),
        ))

    async def _next(self, command: _Command, wait_s: float) -> CommandOutput:
        """What there is, or what comes within the time."""
        data = bytearray()
        ends_s = asyncio.get_running_loop().time() + wait_s
        while len(data) < PART_BYTES_MAX:
            if command.lines:
                line = command.lines.pop()
                data += line[:PART_BYTES_MAX]
                if len(line) > PART_BYTES_MAX:
                    command.lines.append(line[PART_BYTES_MAX:])
                continue
            if command.reader is None:
                command.reader = asyncio.create_task(command.sandbox.receive())
            left_s = 0.0 if data else max(0.0, ends_s - asyncio.get_running_loop().time())
            await asyncio.wait({command.reader}, timeout=left_s)
            if not command.reader.done():
                break
            more, command.reader = command.reader.result(), None
            if more is None:
                ended: Ended = await command.sandbox.wait()
                why = command.why or ("out of memory" if ended.out_of_memory else "")
                why = why or ("it wrote too much" if ended.output_cut else "")
                return CommandOutput(data=bytes(data), ended=True, code=ended.code, why=why)
            command.lines.append(more)
        return CommandOutput(data=bytes(data))

    async def _watch(self, run_id: str, command: _Command) -> None:
        """End it when its time is over or nobody reads any more, and clear it away."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._service.settings.sandbox.run_timeout_s
        while True:
            await asyncio.sleep(min(UNREAD_S_MAX / 4, max(0.01, ends_s - loop.time())))
            if loop.time() >= ends_s and not command.why:
                command.why = f"it took longer than {self._service.settings.sandbox.run_timeout_s} s"
                await command.sandbox.kill()
            if loop.time() - command.asked_s > UNREAD_S_MAX and not command.lock.locked():
                break
        # Not by itself within itself: `_end` cancels this task.
        self._service.spawn(self._end(run_id, "nobody read its output"), f"end of {run_id}")

    async def _end(self, run_id: str, why: str) -> None:
        command = self._commands.pop(run_id, None)
        if command is None:
            return
        command.why = command.why or why
        for task in (command.watch, command.reader):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SandboxError):
                    await task
        try:
            await command.sandbox.kill()
        except SandboxError as error:
            # The service goes on; what is left is cleared away when the engine is back.
            log.warning("a command could not be ended", extra={"worker": run_id, "why": str(error)})
        finally:
            self._doors.close(run_id)


def _tenant(group: Group) -> Tenant:
    return Tenant(group.folder, group.chat, group.is_main)
