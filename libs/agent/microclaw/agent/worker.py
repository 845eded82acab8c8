"""The worker: one turn after the other, each with exactly one end, and signs of life in between."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from zoneinfo import ZoneInfo

from microclaw.agent.check import run_check
from microclaw.agent.compaction import Compactor
from microclaw.agent.conversation import Call, Outcome, Result, TurnLog
from microclaw.agent.loop import MODEL_WAIT_S, Bounds, Loop
from microclaw.agent.models import Model, ModelError, open_model
from microclaw.agent.past import Past
from microclaw.agent.sessions import Sessions
from microclaw.agent.system_prompt import system_prompt
from microclaw.agent.tools.schemas import offered
from microclaw.agent.tools.toolbox import Toolbox
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import (
    LINE_BYTES_MAX,
    WRITING_CHARS_MAX,
    WRITING_EVERY_S,
    Alive,
    Note,
    Setup,
    ToolCall,
    ToolReply,
    Turn,
    TurnDone,
    WorkerLine,
    Writing,
    encode_line,
)

#: Signs of life while a turn is under way; the host expects one at least every 10 s.
ALIVE_EVERY_S = 5.0


class Worker:
    """One group's agent."""

    def __init__(
        self,
        setup: Setup,
        workspace: Workspace,
        send: Callable[[WorkerLine], None],
        model: Model | None = None,
        first_wait_s: float = MODEL_WAIT_S,
    ) -> None:
        workspace = dataclasses.replace(workspace, shared_is_writable=setup.is_main)
        self._send = send
        self._sessions = Sessions(workspace.session)
        self._model = model or open_model(setup, workspace)
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._run_id = ""
        self._doing = ""
        #: What the turn under way is told of memory.
        self._memory = ""
        #: Will tell what the model writes; None = nothing new was written.
        self._telling: asyncio.TimerHandle | None = None
        self._told = ""
        extra = None
        if setup.backend == "scripted":
            from microclaw.agent.scripted import SCRIPT_TOOLS

            extra = SCRIPT_TOOLS
        tools = offered(setup.is_main)
        zone = ZoneInfo(setup.timezone or "UTC")

        def system() -> str:
            return system_prompt(setup, self._memory)

        def keep_page(turns: Sequence[TurnLog]) -> str:
            from microclaw.agent.archive import archive, as_told  # no worker's start waits for it

            return archive(
                workspace.group, [as_told(turn) for turn in turns], assistant=setup.assistant_name, zone=zone
            )

        self._past = Past(
            Compactor(
                self._model, tools, system,
                keep_page,
                lambda text: send(Note(text=text)),
            ),
            has_model=setup.backend != "local",
        )
        self._loop = Loop(
            self._model,
            Toolbox(workspace, self._ask_host, extra),
            tools,
            Bounds(steps=setup.max_steps, tokens=setup.turn_tokens_max),
            check=lambda script: run_check(script, workspace),
            system=system,
            compactor=self._past.compactor,
            doing=self._now_doing,
            writing=self._now_writing,
            doubts=setup.backend not in ("local", "scripted"),
            first_wait_s=first_wait_s,
        )

    async def prewarm(self) -> None:
        """Do what is slow while nobody waits. What goes wrong here goes wrong again, and is told, in the turn."""
        try:
            await self._model.prewarm()
        except ModelError as error:
            self._send(Note(text=str(error)))

    async def close(self) -> None:
        """No turn will come any more."""
        await self._model.close()

    def _now_doing(self, what: str) -> None:
        self._doing = what

    def _now_writing(self, text: Callable[[], str]) -> None:
        """Told in a moment, with what is there by then."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(WRITING_EVERY_S, self._tell_writing, text)

    def _tell_writing(self, text: Callable[[], str]) -> None:
        self._telling = None
        written = text()[:WRITING_CHARS_MAX]
        if self._run_id and written and written != self._told:
            self._told = written
            self._send(Writing(run_id=self._run_id, text=written))

    async def turn(self, turn: Turn) -> None:
        """Do a turn and send its end. Whatever goes wrong in here is the turn's end, not the worker's."""
        self._run_id, self._doing, self._memory = turn.run_id, "starting", turn.memory
        compacted = ""
        alive = asyncio.create_task(self._alive(turn.run_id))
        try:
            transcript = self._sessions.open(turn)
            try:
                if turn.do == "answer":
                    outcome = await self._loop.run(turn, transcript)
                else:
                    outcome = await self._past.change(turn, transcript)
                compacted = self._past.compacted_for(turn, transcript)
            finally:
                self._sessions.close(transcript)
        except Exception as error:  # noqa: BLE001 - reported to the host, which decides about another try
            self._send(Note(text=f"turn {turn.run_id} broke: {type(error).__name__}: {error}"))
            outcome = Outcome(
                ok=False, error=f"the agent broke: {type(error).__name__}", error_code="crashed",
            )
        finally:
            alive.cancel()
            if self._telling is not None:
                self._telling.cancel()
            self._telling, self._told = None, ""
            self._waiting.clear()
            self._run_id = ""
        self._send(TurnDone(
            run_id=turn.run_id, ok=outcome.ok, text=outcome.text, error=outcome.error,
            error_code=outcome.error_code, steps=outcome.steps, skipped=outcome.skipped, compacted=compacted,
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
