"""The lines between the host and the worker: standard input and output, one JSON object a line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from dataclasses import replace
from zoneinfo import ZoneInfoNotFoundError

import msgspec

from microclaw.agent.relay import Relay
from microclaw.agent.worker import Worker
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import (
    LINE_BYTES_MAX,
    Close,
    HostToWorker,
    Note,
    Ready,
    Setup,
    ToolReply,
    Turn,
    WorkerLine,
    decode_host_line,
    encode_line,
)

#: Turns that may wait for the one under way.
TURNS_WAITING_MAX = 64


class ProtocolError(Exception):
    """The host said something that makes no sense: the worker ends, for it can't know what was meant."""


class HostLines:
    """Standard input as a queue of lines. A thread reads: it works on pipes, files and terminals alike."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    def start(self) -> None:
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def _read(self) -> None:
        while True:
            raw = sys.stdin.buffer.readline(LINE_BYTES_MAX + 1)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._lines.put_nowait, raw)
            if not raw:
                return

    async def next(self) -> HostToWorker | None:
        """None at the end. Raises ProtocolError."""
        raw = await self._lines.get()
        if not raw:
            return None
        if len(raw) > LINE_BYTES_MAX:
            raise ProtocolError(f"a line from the host is longer than {LINE_BYTES_MAX} bytes")
        try:
            return decode_host_line(raw)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"a line from the host can't be read: {error}") from error


def write_line(line: WorkerLine) -> None:
    """To the host, at once."""
    raw = memoryview(encode_line(line))
    while raw:
        raw = raw[os.write(sys.stdout.fileno(), raw):]


async def serve(workspace: Workspace) -> int:
    """Talk to the host until it closes. Returns the exit code."""
    lines = HostLines(asyncio.get_running_loop())
    lines.start()
    relay = Relay(workspace.egress_socket)
    try:
        try:
            await relay.start(workspace.relay_port)
            workspace = replace(workspace, relay=relay)
        except OSError as error:
            # The model and `web_fetch` go by the door itself: the worker can work without.
            write_line(Note(text=f"programs have no way to egress: the relay can't listen ({error.strerror})"))
        setup = await lines.next()
        if setup is None:
            return 0
        if not isinstance(setup, Setup):
            raise ProtocolError("the first line from the host must be a setup")
        await _Service(Worker(setup, workspace, write_line)).run(lines)
        return 0
    except (ProtocolError, msgspec.ValidationError, ZoneInfoNotFoundError) as error:
        write_line(Note(text=str(error)))
        return 2
    except BrokenPipeError:
        return 0  # the host is gone, which is an end like the end of its lines


class _Service:
    """Listens to the host while the worker works."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._turns: asyncio.Queue[Turn | None] = asyncio.Queue()
        #: Turns that wait or are under way.
        self._known: set[str] = set()

    async def run(self, lines: HostLines) -> None:
        """Until the host's lines end, which ends the turn under way too (it is in the transcript), or until `Close`
        and the end of all turns given before it. Raises ProtocolError, BrokenPipeError."""
        write_line(Ready(pid=os.getpid()))
        tasks = [asyncio.create_task(part) for part in (self._work(), self._listen(lines), self._worker.prewarm())]
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _work(self) -> None:
        while (turn := await self._turns.get()) is not None:
            await self._worker.turn(turn)
            self._known.discard(turn.run_id)

    async def _listen(self, lines: HostLines) -> None:
        while (line := await lines.next()) is not None:
            match line:
                case Turn():
                    self._take(line)
                case ToolReply():
                    self._worker.replied(line)
                case Close():
                    self._turns.put_nowait(None)
                case Setup():
                    raise ProtocolError("a second setup came: a worker serves one group")

    def _take(self, turn: Turn) -> None:
        if turn.run_id in self._known:
            write_line(Note(text=f"turn {turn.run_id} is under way already"))
            return
        if len(self._known) >= TURNS_WAITING_MAX:
            raise ProtocolError(f"more than {TURNS_WAITING_MAX} turns are waiting")
        self._known.add(turn.run_id)
        self._turns.put_nowait(turn)
