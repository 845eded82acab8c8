"""Programs in the sandbox: their output bounded, their time bounded, and nothing of them left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import Bash
from microclaw.agent.workspace import Workspace

#: What is kept of a program's output at its beginning and at its end.
HEAD_BYTES_MAX = 16_000
TAIL_BYTES_MAX = 16_000
#: One read of a program's output.
READ_BYTES = 65_536
#: How long output may still come after the program's processes were ended.
DRAIN_S_MAX = 1.0


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    #: Negative: ended by that signal.
    exit_code: int
    output: str
    timed_out: bool


class _Kept:
    """The first and the last bytes of a stream; what is between them is only counted."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.tail: deque[bytes] = deque()
        self.tail_bytes = 0
        self.dropped = 0

    def add(self, data: bytes) -> None:
        room = HEAD_BYTES_MAX - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail.append(data)
            self.tail_bytes += len(data)
        while self.tail and self.tail_bytes - len(self.tail[0]) >= TAIL_BYTES_MAX:
            gone = self.tail.popleft()
            self.tail_bytes -= len(gone)
            self.dropped += len(gone)

    def text(self) -> str:
        tail = b"".join(self.tail)
        dropped = self.dropped + max(0, len(tail) - TAIL_BYTES_MAX)
        tail = tail[-TAIL_BYTES_MAX:]
        middle = f"\n… {dropped} bytes left out …\n" if dropped else ""
        return self.head.decode("utf-8", "replace") + middle + tail.decode("utf-8", "replace")


async def run_program(
    argv: Sequence[str], cwd: Path, timeout_s: float, env: Mapping[str, str] | None = None,
) -> Ran:
    """Run a program to its end, or end it and its whole process group after `timeout_s`. `env` None = as ours.

    Processes that it left in the background are ended with it. Raises ToolError when it can't be started.
    """
    # A pipe of our own: asyncio's would have the process run until everybody who inherited its output is gone.
    ours, its = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=its, stderr=its, start_new_session=True,
            env=env,
        )
    except OSError as error:
        os.close(ours)
        raise ToolError(f"{argv[0]} can't be started: {error.strerror}") from error
    finally:
        os.close(its)
    kept = _Kept()
    reading = asyncio.create_task(_read(ours, kept))
    timed_out = False
    try:
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            timed_out = True
    finally:
        # Also on the way out of a cancelled turn: the group of a session leader has the leader's pid.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # One that fled from the group may hold the output open: it is not waited for.
        await asyncio.wait({reading}, timeout=DRAIN_S_MAX)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return Ran(exit_code=await process.wait(), output=kept.text(), timed_out=timed_out)


async def _read(fd: int, kept: _Kept) -> None:
    """Read a pipe to its end, and close it in any case."""
    stream = asyncio.StreamReader(limit=READ_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        while data := await stream.read(READ_BYTES):
            kept.add(data)
    finally:
        transport.close()


async def bash(args: Bash, workspace: Workspace) -> str:
    """The tool."""
    shell = shutil.which("bash") or "/bin/sh"
    relay = workspace.relay
    env = await workspace.program_environment()
    refused = relay.refused if relay else 0
    ran = await run_program([shell, "-c", args.command], workspace.group, args.timeout_s, env)
    # Many programs say "403" and keep the reason to themselves.
    reasons = [f"[egress refused: {reason}]" for reason in (await relay.refused_since(refused) if relay else ())]
    output = "\n".join(filter(None, (ran.output.rstrip("\n"), *reasons)))
    if ran.timed_out:
        end = f"[ended after {args.timeout_s} s: it took too long]"
    elif ran.exit_code < 0:
        end = f"[ended by signal {-ran.exit_code}]"
    elif ran.exit_code > 0:
        end = f"[exit code {ran.exit_code}]"
    else:
        return output or "[no output]"
    return f"{output}\n{end}" if output else end
