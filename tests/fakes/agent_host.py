"""The host's side of one agent process, as the sandbox service has it, but without a sandbox: for the agent's tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from microclaw.core.worker import (
    Alive,
    HostLine,
    Note,
    Ready,
    Setup,
    ToolCall,
    ToolReply,
    Turn,
    TurnDone,
    WorkerToHost,
    decode_worker_line,
    encode_line,
)

#: Longest wait for a line of the agent, in seconds: generous, the machine may be busy.
WAIT_S_MAX = 30.0

#: What a host tool answers; None = this call is never answered.
Answer = Callable[[ToolCall], str | None]


def setup(backend: str = "local", **more: object) -> Setup:
    """The first line, for a main group in Berlin."""
    fields: dict[str, object] = {
        "group": "main", "chat": "console:main", "is_main": True, "assistant_name": "Andy",
        "timezone": "Europe/Berlin", "backend": backend, **more,
    }
    return Setup(**fields)  # type: ignore[arg-type]


class AgentDiedError(Exception):
    """The agent ended without the line that was waited for."""


class AgentHost:
    """`async with AgentHost(root) as host`: a running agent that has said it is ready."""

    def __init__(self, root: Path, first: Setup | None = None, socket: Path | None = None) -> None:
        self._root = root
        self._first = first or setup()
        self._env = {**os.environ, "MICROCLAW_WORKSPACE": str(root), "MICROCLAW_RELAY_PORT": "0"}
        if socket is not None:
            self._env["MICROCLAW_EGRESS_SOCKET"] = str(socket)
        self.process: asyncio.subprocess.Process
        #: Every line that the agent wrote.
        self.heard: list[WorkerToHost] = []

    async def __aenter__(self) -> AgentHost:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "microclaw.agent", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=self._env, limit=4 << 20,
        )
        self.send(self._first)
        while not isinstance(await self.hear(), Ready):
            pass
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def send(self, line: HostLine) -> None:
        """To the agent."""
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(line))

    async def hear(self) -> WorkerToHost:
        """The agent's next line. Raises AgentDiedError."""
        assert self.process.stdout is not None
        raw = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S_MAX)
        if not raw:
            raise AgentDiedError(" ".join([f"exit code {await self.process.wait()}", *self.notes]))
        line = decode_worker_line(raw)
        self.heard.append(line)
        return line

    async def turn(self, turn: Turn, answer: Answer = lambda call: f"{call.name} done") -> TurnDone:
        """Give a turn, answer its calls, wait for its end. Raises AgentDiedError."""
        self.send(turn)
        while True:
            match await self.hear():
                case TurnDone() as done:
                    return done
                case ToolCall() as call:
                    text = answer(call)
                    if text is not None:
                        self.send(ToolReply(run_id=call.run_id, call_id=call.call_id, ok=True, text=text))
                case Alive() | Note() | Ready():
                    pass

    @property
    def notes(self) -> list[str]:
        return [line.text for line in self.heard if isinstance(line, Note)]

    async def kill(self) -> None:
        """As a machine would: at once, and nothing is said any more."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def close_input(self) -> int:
        """End the lines to the agent; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), WAIT_S_MAX)
