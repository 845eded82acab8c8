"""One turn from its prompt to its end: model → tool calls → results → model …

Every step is in the transcript before it is acted on, and everything that is done follows from the transcript: so a
turn that was killed anywhere is simply run again, finds what it already knows, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from microclaw.agent.compaction import Compactor
from microclaw.agent.context import fits, remembered
from microclaw.agent.conversation import INTERRUPTED, Call, ErrorCode, Outcome, Result, Said, Step, TurnLog
from microclaw.agent.models import Ask, Model, ModelError
from microclaw.agent.tools.schemas import ToolSpec
from microclaw.agent.tools.toolbox import Toolbox, cut_middle
from microclaw.agent.transcript import Transcript
from microclaw.core.check import Checked, CheckError, with_data
from microclaw.core.claims import Claim, doubt, note, unbacked
from microclaw.core.worker import DEADLINES_MAX, SAYING_TOOLS, Turn

#: A longer answer is cut: it has to fit a line to the host.
ANSWER_CHARS_MAX = 200_000
#: A longer error is cut.
ERROR_CHARS_MAX = 500
#: Tries of one question to the model, and the wait before the second, which doubles.
MODEL_TRIES_MAX = 3
MODEL_WAIT_S = 1.0
#: If the provider asks to be left alone for longer, the turn ends instead of waiting.
RETRY_AFTER_S_MAX = 60.0


@dataclass(frozen=True)
class Bounds:
    """What a turn may use."""

    #: Messages of the model.
    steps: int
    #: Tokens of all its messages, in and out.
    tokens: int


class TurnEndedError(Exception):
    """The turn can't go on."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


class Loop:
    """Runs turns, one at a time."""

    def __init__(
        self,
        model: Model,
        toolbox: Toolbox,
        tools: tuple[ToolSpec, ...],
        bounds: Bounds,
        check: Callable[[str], Awaitable[Checked]],
        system: Callable[[], str],
        compactor: Compactor,
        doing: Callable[[str], None],
        writing: Callable[[Callable[[], str]], None] | None = None,
        *,
        doubts: bool = False,
        first_wait_s: float = MODEL_WAIT_S,
    ) -> None:
        self._model = model
        self._toolbox = toolbox
        self._tools = tools
        self._bounds = bounds
        self._check_first = check
        self._system = system
        self._compactor = compactor
        self._doing = doing
        self._writing = writing
        self._first_wait_s = first_wait_s
        #: Answers are held against what was done; built-in skills and scripts say what they did.
        self._doubts = doubts
        #: Of the turn under way, "" = the usual one.
        self._model_name = ""
        #: When the turn under way is ended, by the event loop's clock.
        self._ends_at = 0.0

    async def run(self, turn: Turn, transcript: Transcript) -> Outcome:
        """The turn's end, which is in the transcript when this returns.

        A turn that ended well or for good is answered again in the same words; one that failed in passing goes on.
        """
        known = transcript.outcomes.get(turn.run_id)
        if known is not None and (known.is_final or (known.steps and turn.run_id not in transcript.turns)):
            return known  # in the second case its steps are forgotten: going on could do something twice
        self._model_name = turn.model
        prompt = turn.prompt
        # Before the turn is in the transcript: one that is there has passed its check.
        if turn.script and turn.run_id not in transcript.turns:
            found = await self._checked(turn)
            if isinstance(found, Outcome):
                transcript.done(transcript.begin(turn.run_id, turn.prompt, turn.now_ms, turn.is_task), found)
                return found
            prompt = with_data(turn.prompt, found)
        now = asyncio.get_running_loop().time()
        if turn.run_id not in transcript.turns:
            self._doing("looking back")
            await self._compactor.make_room(turn.run_id, transcript, turn.now_ms)
        log = transcript.begin(turn.run_id, prompt, turn.now_ms, turn.is_task)
        self._ends_at, self._deadline_s = now + turn.deadline_s, float(turn.deadline_s)
        self._ends_at_last = now + DEADLINES_MAX * turn.deadline_s
        try:
            async with asyncio.timeout_at(self._ends_at) as self._budget:
                text = await self._run(log, transcript)
            outcome = Outcome(ok=True, text=cut_middle(text, ANSWER_CHARS_MAX), steps=len(log.steps))
        except TurnEndedError as error:
            outcome = error.outcome
        except ModelError as error:
            outcome = _failed(log, error.code, str(error))
        except TimeoutError:
            outcome = _failed(log, "budget", f"the turn took longer than {turn.deadline_s} s and was ended")
        transcript.done(log, outcome)
        return outcome

    async def _checked(self, turn: Turn) -> Checked | Outcome:
        """What the turn's script found, or the turn's end."""
        self._doing("checking")
        try:
            found = await self._check_first(turn.script)
        except CheckError as error:
            line = " ".join(str(error).split())
            return Outcome(ok=False, error=cut_middle(line, ERROR_CHARS_MAX), error_code="check_failed")
        return found if found.wake else Outcome(ok=True, skipped=True)

    async def _run(self, log: TurnLog, transcript: Transcript) -> str:
        if log.steps:
            await self._carry_out(log, log.steps[-1], transcript)
        while self._goes_on(log, transcript):
            self._check(log)
            last = len(log.steps) + 1 >= self._bounds.steps
            self._doing("asking the model")
            said = await self._ask(log, transcript, no_more_calls=last)
            if last and said.calls:
                raise TurnEndedError(_failed(log, "budget", f"no end after {self._bounds.steps} steps of the model"))
            step = transcript.said(log, said)
            await self._carry_out(log, step, transcript)
        said = log.steps[-1].said
        text = said.text + ("\n[cut off: the answer was longer than max_tokens]" if said.is_cut else "")
        claim = self._unbacked(log, transcript)
        return text if claim is None else f"{text}\n\n{note(claim)}"

    def _goes_on(self, log: TurnLog, transcript: Transcript) -> bool:
        """Whether the model has to be asked (again). An answer that claims what no tool did is not taken the first
        time: the model is told, and may do it or say it otherwise."""
        if not log.steps or log.steps[-1].said.calls or log.steps[-1].doubt:
            return True
        can_go_on = len(log.steps) < self._bounds.steps and log.tokens <= self._bounds.tokens
        claim = self._unbacked(log, transcript)
        if claim is None or not can_go_on or any(step.doubt for step in log.steps):
            return False
        transcript.doubted(log, doubt(claim))
        return True

    def _unbacked(self, log: TurnLog, transcript: Transcript) -> Claim | None:
        if not self._doubts:
            return None
        earlier = frozenset[str]().union(*(turn.did for turn in transcript.view if turn is not log))
        return unbacked(log.steps[-1].said.text, log.did, None if transcript.summary else earlier)

    def _check(self, log: TurnLog) -> None:
        if len(log.steps) >= self._bounds.steps:
            raise TurnEndedError(_failed(log, "budget", f"no end after {self._bounds.steps} steps of the model"))
        if log.tokens > self._bounds.tokens:
            raise TurnEndedError(_failed(log, "budget", f"the turn used more than {self._bounds.tokens} tokens"))

    async def _ask(self, log: TurnLog, transcript: Transcript, *, no_more_calls: bool) -> Said:
        """Ask, and ask again what may be answered a little later. Raises ModelError."""
        tries, wait_s = 0, self._first_wait_s
        turns = remembered(transcript.view, log, transcript.summary)
        is_shorter = False
        while True:
            tries += 1
            ask = Ask(
                system=self._system(), turns=fits(turns), tools=self._tools, no_more_calls=no_more_calls,
                model=self._model_name, writing=self._writing,
            )
            try:
                return await self._model.say(ask)
            except ModelError as error:
                if error.code == "too_long" and len(turns) > 1:
                    if not is_shorter and any(each is not log for each in transcript.view):
                        await self._compactor.cover_anyhow(log.run_id, transcript, (log,), log.now_ms)
                        turns = remembered(transcript.view, log, transcript.summary)
                    else:
                        turns = turns[-1:]  # without what was before, it may fit
                    is_shorter = True
                    continue
                if not error.is_passing or tries >= MODEL_TRIES_MAX:
                    raise
                pause_s = error.retry_after_s if error.retry_after_s is not None else wait_s
                if pause_s > RETRY_AFTER_S_MAX or asyncio.get_running_loop().time() + pause_s >= self._ends_at:
                    raise
                self._doing("waiting for the model")
                await asyncio.sleep(pause_s)
                wait_s *= 2

    async def _carry_out(self, log: TurnLog, step: Step, transcript: Transcript) -> None:
        for call in step.said.calls:
            if call.call_id not in step.results:
                self._doing(f"tool {call.name}")
                result = await self._result(log, step, call, transcript)
                transcript.result(log, result)
                if call.name in SAYING_TOOLS and result.ok:
                    self._gave_a_result()

    def _gave_a_result(self) -> None:
        """The turn's time starts anew, as the host's does."""
        now = asyncio.get_running_loop().time()
        self._ends_at = min(now + self._deadline_s, self._ends_at_last)
        self._budget.reschedule(self._ends_at)

    async def _result(self, log: TurnLog, step: Step, call: Call, transcript: Transcript) -> Result:
        if self._toolbox.effect(call) != "write":
            return await self._toolbox.run(call)
        if call.call_id in step.started:
            return Result(call_id=call.call_id, ok=False, text=INTERRUPTED)
        transcript.started(log, call.call_id)
        return await self._toolbox.run(call)


def _failed(log: TurnLog, code: ErrorCode, error: str) -> Outcome:
    line = " ".join(error.split())
    return Outcome(ok=False, error=cut_middle(line, ERROR_CHARS_MAX), error_code=code, steps=len(log.steps))

