"""One live worker: the sandbox of a group, spoken to in lines, one turn at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from microclaw.core.turns import Loss, Lost, Sign, Watch
from microclaw.core.worker import (
    SAYING_TOOLS,
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
    Writing,
    decode_worker_line,
    encode_line,
)
from microclaw.sandbox.backend import Ended, Sandbox, SandboxError

#: Lines that can't be read, of one worker, before it is ended. One is a stray print of some library.
GARBLED_LINES_MAX = 8
#: Calls of one turn that are answered; beyond, the agent is told to stop. Twice that, and the worker is ended.
CALLS_MAX = 400
#: Calls of one turn that are carried out at the same time.
CALLS_AT_ONCE = 4
#: Notes of one worker that go to the log, and the characters of one.
NOTES_MAX = 200
NOTE_CHARS_MAX = 300
#: Of what a worker that died wrote to its standard error, in the log.
STDERR_CHARS_MAX = 1000
#: A worker that has said so much is replaced when it is idle: a backend ends it at a bound somewhat higher.
SPOKEN_BYTES_MAX = 32 << 20
#: Lines of a turn that wait to be handled.
LINES_WAITING_MAX = 64

log = logging.getLogger("microclaw.sandbox")

#: Carries out a call of the host's tools.
OnCall = Callable[[ToolCall], Awaitable[ToolReply]]
#: Hears what the model has written so far.
OnWriting = Callable[[str], None]


class WorkerLost(Exception):
    """The worker is gone or was ended in the middle of a turn."""

    def __init__(self, lost: Lost) -> None:
        self.lost = lost
        super().__init__(str(lost))


class Worker:
    """A worker that has said it is ready. Made by `start_worker`."""

    def __init__(self, sandbox: Sandbox, group: str) -> None:
        self.worker_id = sandbox.worker_id
        self.group = group
        #: Turns it has ended.
        self.turns = 0
        self._sandbox = sandbox
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._run_id = ""
        self._lines: asyncio.Queue[Alive | Writing | ToolCall | TurnDone | None] = asyncio.Queue(LINES_WAITING_MAX)
        self._garbled = 0
        self._notes = 0
        self._spoken_bytes = 0
        #: Why we ended it, if we did.
        self._why: Lost | None = None
        #: How it ended, once it has.
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(), name=f"worker {self.worker_id}")

    @property
    def is_over(self) -> bool:
        """It takes no more turns."""
        return self._why is not None or self.ended.done()

    @property
    def is_spent(self) -> bool:
        """It should be replaced as soon as it is idle."""
        return self._spoken_bytes > SPOKEN_BYTES_MAX

    async def greet(self, setup: Setup, timeout_s: float) -> None:
        """Tell it who it is and wait until it is ready.

        :raises WorkerLost: it ended instead. :raises SandboxError: it is not ready in time.
        """
        with contextlib.suppress(SandboxError):  # it ended already: `ended` says how
            await self._send(setup)
        either: set[asyncio.Future[Any]] = {self._ready, self.ended}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return
        if self.ended.done():
            raise WorkerLost(self._lost())
        raise SandboxError(f"worker {self.worker_id} was not ready within {timeout_s:.0f} s")

    async def turn(
        self, turn: Turn, on_call: OnCall, watch: Watch, on_writing: OnWriting = lambda _text: None
    ) -> TurnDone:
        """Have it do a turn; its calls of host tools go to `on_call`.

        :raises WorkerLost: it died, or had to be ended. It is over then, and everything it started is gone.
        """
        self._run_id = turn.run_id
        calls = _Calls(on_call, self._send)
        try:
            watch.heard(time.monotonic())
            await self._send(turn)
            while True:
                line = await self._next(watch)
                watch.heard(time.monotonic())
                match line:
                    case TurnDone():
                        self.turns += 1
                        return line
                    case Writing():
                        on_writing(line.text)
                    case ToolCall() if calls.take(line) is False:
                        await self._end(Lost(Loss.GARBLED))
                    case ToolCall() if line.name in SAYING_TOOLS:
                        watch.result(time.monotonic())
                    case None:
                        raise WorkerLost(self._lost())
        except SandboxError:
            # It closed its ear: it is over, or will be at once.
            await self.kill()
            raise WorkerLost(self._lost()) from None
        finally:
            self._run_id = ""
            await calls.stop()
            while not self._lines.empty():
                self._lines.get_nowait()

    async def kill(self, why: Lost | None = None) -> Ended:
        """End it and all it started. Idempotent."""
        self._why = self._why or why or Lost(Loss.DIED, "ended by the host")
        await self._kill_sandbox()
        return await asyncio.shield(self.ended)

    # --- inside -----------------------------------------------------------------------------------------------

    async def _kill_sandbox(self) -> None:
        # One whose engine is gone can't say how it ended, and is over all the same.
        with contextlib.suppress(SandboxError, OSError):
            await self._sandbox.kill()

    async def _send(self, line: HostLine) -> None:
        await self._sandbox.send(encode_line(line))

    async def _end(self, why: Lost) -> None:
        await self.kill(why)
        raise WorkerLost(self._lost())

    async def _next(self, watch: Watch) -> Alive | Writing | ToolCall | TurnDone | None:
        while True:
            now_s = time.monotonic()
            sign = watch.sign(now_s)
            if sign is Sign.SILENT:
                await self._end(Lost(Loss.SILENT))
            if sign is Sign.OVERDUE:
                await self._end(Lost(Loss.OVERDUE, "its time"))
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(self._lines.get(), watch.look_again_s - now_s)

    async def _read(self) -> None:
        """Every line it says, until it ends."""
        try:
            while (raw := await self._sandbox.receive()) is not None:
                self._spoken_bytes += len(raw)
                # What one says that we have given up counts no more.
                if self._why is None:
                    await self._hear(raw)
            ended = await self._sandbox.wait()
        except (SandboxError, OSError) as error:
            log.warning("the sandbox failed", extra=self._ids() | {"why": str(error)})
            await self._kill_sandbox()
            ended = Ended(code=-1)
        except Exception:
            # Whatever it was: without an end of the worker, its group would stand still for ever.
            log.exception("reading the worker failed", extra=self._ids())
            await self._kill_sandbox()
            ended = Ended(code=-1)
        self.ended.set_result(ended)
        facts: dict[str, object] = {
            "code": ended.code, "out_of_memory": ended.out_of_memory, "output_cut": ended.output_cut,
            "turns": self.turns, "why": (self._why.detail or str(self._why.how)) if self._why else "by itself",
        }
        is_crash = bool(ended.code) and self._why is None
        if is_crash:
            # The agent writes nobody's words there; it tells why the program does not start, or died.
            facts["stderr"] = ended.stderr_tail[-STDERR_CHARS_MAX:]
        log.log(logging.WARNING if is_crash else logging.INFO, "worker ended", extra=self._ids() | facts)
        if self._run_id:
            await self._lines.put(None)

    async def _hear(self, raw: bytes) -> None:
        try:
            line = decode_worker_line(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._garbled += 1
            log.warning("a line that can't be read", extra=self._ids() | {"bytes": len(raw)})
            if self._garbled >= GARBLED_LINES_MAX and self._why is None:
                self._why = Lost(Loss.GARBLED)
                await self._sandbox.kill()
        else:
            await self._take(line)

    async def _take(self, line: WorkerToHost) -> None:
        match line:
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(None)
            case Note():
                self._notes += 1
                if self._notes <= NOTES_MAX:
                    text = " ".join(line.text.split())[:NOTE_CHARS_MAX]
                    log.info("worker's note", extra=self._ids() | {"note": text})
            case Alive() | Writing() | ToolCall() | TurnDone():
                if line.run_id == self._run_id:
                    await self._lines.put(line)

    def _lost(self) -> Lost:
        if self._why is not None:
            return self._why
        if not self.ended.done():
            return Lost(Loss.DIED, "it closed its input")
        how = self.ended.result()
        if how.out_of_memory:
            return Lost(Loss.OUT_OF_MEMORY, f"exit code {how.code}")
        if how.output_cut:
            return Lost(Loss.TOO_LOUD)
        return Lost(Loss.DIED, f"exit code {how.code}", how.stderr_tail if how.code else "")

    def _ids(self) -> dict[str, object]:
        return {"worker": self.worker_id, "group": self.group, "run_id": self._run_id}


class _Calls:
    """The calls of one turn, some at a time, so that a slow one does not stop the signs of life."""

    def __init__(self, on_call: OnCall, send: Callable[[HostLine], Awaitable[None]]) -> None:
        self._on_call = on_call
        self._send = send
        self._count = 0
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, call: ToolCall) -> bool:
        """Carry it out and answer it; False when there were so many that the worker can't be in its right mind."""
        self._count += 1
        if self._count > 2 * CALLS_MAX:
            return False
        task = asyncio.create_task(self._do(call, refused=self._count > CALLS_MAX))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def stop(self) -> None:
        """The turn is over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _do(self, call: ToolCall, *, refused: bool) -> None:
        if refused:
            text = f"refused: more than {CALLS_MAX} calls in one turn; finish with what you have"
            reply = ToolReply(run_id=call.run_id, call_id=call.call_id, ok=False, text=text)
        else:
            try:
                async with self._places:
                    reply = await self._on_call(call)
            except Exception:
                # Whatever it was, the agent must not wait for an answer for ever.
                log.exception("a call failed", extra={"run_id": call.run_id, "tool": call.name[:40]})
                text = f"error: {call.name[:40]} failed inside the host; try something else"
                reply = ToolReply(run_id=call.run_id, call_id=call.call_id, ok=False, text=text)
        with contextlib.suppress(SandboxError):  # it ended meanwhile, and the turn is told so
            await self._send(reply)
