"""The worker: the host's lines in, turns one after the other, the worker's lines out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable

import msgspec

from microclaw.agent.conversation import Call, Outcome, Result
from microclaw.agent.loop import Bounds, Loop
from microclaw.agent.models import Model, open_model
from microclaw.agent.sessions import Sessions
from microclaw.agent.system_prompt import system_prompt
from microclaw.agent.tools.schemas import offered
from microclaw.agent.tools.toolbox import Toolbox
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import (
    LINE_BYTES_MAX,
    Alive,
    Close,
    HostToWorker,
    Note,
    Ready,
    Setup,
    ToolCall,
    ToolReply,
    Turn,
    TurnDone,
    WorkerLine,
    decode_host_line,
    encode_line,
)

#: Signs of life while a turn is under way; the host expects one at least every 10 s.
ALIVE_EVERY_S = 5.0
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


class Worker:
    """One group's agent."""

    def __init__(
        self,
        setup: Setup,
        workspace: Workspace,
        send: Callable[[WorkerLine], None],
        model: Model | None = None,
        first_wait_s: float | None = None,
    ) -> None:
        self._send = send
        self._sessions = Sessions(workspace.session)
        self._model = model or open_model(setup, lambda text: send(Note(text=text)))
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._run_id = ""
        self._doing = ""
        extra = None
        if setup.backend == "scripted":
            from microclaw.agent.scripted import SCRIPT_TOOLS

            extra = SCRIPT_TOOLS
        self._loop = Loop(
            self._model,
            Toolbox(workspace, self._ask_host, extra),
            offered(setup.is_main),
            Bounds(steps=setup.max_steps, tokens=setup.turn_tokens_max),
            system=lambda: system_prompt(setup, workspace),
            doing=self._now_doing,
            **({} if first_wait_s is None else {"first_wait_s": first_wait_s}),
        )

    async def prewarm(self) -> None:
        await self._model.prewarm()

    def _now_doing(self, what: str) -> None:
        self._doing = what

    async def turn(self, turn: Turn) -> None:
        """Do a turn and send its end. Whatever goes wrong in here is the turn's end, not the worker's."""
        self._run_id, self._doing = turn.run_id, "starting"
        alive = asyncio.create_task(self._alive(turn.run_id))
        try:
            transcript = self._sessions.open(turn)
            try:
                outcome = await self._loop.run(turn, transcript)
            finally:
                self._sessions.close(turn, transcript)
        except Exception as error:  # noqa: BLE001 - reported to the host, which decides about another try
            self._send(Note(text=f"turn {turn.run_id} broke: {type(error).__name__}: {error}"))
            outcome = Outcome(
                ok=False, error=f"the agent broke: {type(error).__name__}", error_code="crashed",
            )
        finally:
            alive.cancel()
            self._waiting.clear()
            self._run_id = ""
        self._send(TurnDone(
            run_id=turn.run_id, ok=outcome.ok, text=outcome.text, error=outcome.error,
            error_code=outcome.error_code, steps=outcome.steps,
        ))

    async def _alive(self, run_id: str) -> None:
        while True:
            self._send(Alive(run_id=run_id, doing=self._doing))
            await asyncio.sleep(ALIVE_EVERY_S)

    async def _ask_host(self, call: Call) -> Result:
        line = ToolCall(run_id=self._run_id, call_id=call.call_id, name=call.name, args=call.args)
        if len(encode_line(line)) > LINE_BYTES_MAX:
            return Result(call_id=call.call_id, ok=False, text="error: the arguments are too long; send less")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[call.call_id] = answer
        self._send(line)
        try:
            return await answer
        finally:
            self._waiting.pop(call.call_id, None)

    def replied(self, reply: ToolReply) -> None:
        """The host's answer to a call; one that nobody waits for (any more) is left."""
        waiting = self._waiting.get(reply.call_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(Result(call_id=reply.call_id, ok=reply.ok, text=reply.text))


async def serve(workspace: Workspace) -> int:
    """Talk to the host over standard input and output until it closes. Returns the exit code."""
    lines = HostLines(asyncio.get_running_loop())
    lines.start()
    try:
        setup = await lines.next()
        if setup is None:
            return 0
        if not isinstance(setup, Setup):
            raise ProtocolError("the first line from the host must be a setup")
        return await _serve(Worker(setup, workspace, write_line), lines)
    except (ProtocolError, msgspec.ValidationError) as error:
        write_line(Note(text=str(error)))
        return 2
    except BrokenPipeError:
        return 0  # the host is gone, which is an end like the end of its lines


async def _serve(worker: Worker, lines: HostLines) -> int:
    turns: asyncio.Queue[Turn | None] = asyncio.Queue(TURNS_WAITING_MAX)
    known: set[str] = set()
    write_line(Ready(pid=os.getpid()))
    warming = asyncio.create_task(worker.prewarm())

    async def work() -> None:
        while (turn := await turns.get()) is not None:
            await worker.turn(turn)
            known.discard(turn.run_id)

    async def listen() -> None:
        while (line := await lines.next()) is not None:
            match line:
                case Turn() if line.run_id in known:
                    write_line(Note(text=f"turn {line.run_id} is under way already"))
                case Turn():
                    known.add(line.run_id)
                    try:
                        turns.put_nowait(line)
                    except asyncio.QueueFull:
                        raise ProtocolError(f"more than {TURNS_WAITING_MAX} turns are waiting") from None
                case ToolReply():
                    worker.replied(line)
                case Close():
                    await turns.put(None)
                case Setup():
                    raise ProtocolError("a second setup came: a worker serves one group")

    working, listening = asyncio.create_task(work()), asyncio.create_task(listen())
    # The end of the host's lines ends everything at once: the turn under way is in the transcript.
    await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, listening, warming):
        if not task.done():
            task.cancel()
    done = await asyncio.gather(working, listening, return_exceptions=True)
    for ended in done:
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
    return 0
