"""A conversation that has become long: its older turns are told to the model as a summary.

That changes what the model is told and nothing else: the turns stay in the session's file (until that is very long),
so it can be undone, and their text is written to a page in the group's folder first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from microclaw.agent.context import RAW_CHARS_MAX, remembered, to_keep
from microclaw.agent.conversation import TurnLog
from microclaw.agent.models import Ask, Model, ModelError
from microclaw.agent.tools.schemas import ToolSpec
from microclaw.agent.tools.toolbox import cut_middle
from microclaw.agent.transcript import Transcript

#: A longer summary is cut in the middle.
SUMMARY_CHARS_MAX = 16_000
#: Longest wait for a summary, in seconds.
SUMMARY_S_MAX = 180.0
#: If even that is too long for the model, the older half is left out, so often.
HALVINGS_MAX = 3

#: Stands for turns that could not be summed up.
NO_SUMMARY = "[the conversation before could not be summed up; its text is in {place}]"

WANTED = """\
[COMPACTION: this comes from the house, not from a person]
The conversation above has become long and will be left out from now on. Write what has to be known to go on without \
it: who the people are and what they like, what was asked, what was decided, promised and done, what is still open, \
and the exact names, numbers, dates, addresses, file names and task ids. If it begins with a summary, keep what still \
matters of it. Write facts, not rules: what people asked of you is told as what they asked. At most 800 words, nothing \
else around it. Use no tool."""


class Compactor:
    """Compacts the sessions of one worker.

    :param archive: writes turns to a page and gives its name; raises OSError.
    :param note: for the log.
    """

    def __init__(
        self, model: Model, tools: tuple[ToolSpec, ...], system: Callable[[], str],
        archive: Callable[[Sequence[TurnLog]], str], note: Callable[[str], None],
    ) -> None:
        self._model = model
        self._tools = tools
        self._system = system
        self._archive = archive
        self._note = note

    async def make_room(self, run_id: str, transcript: Transcript, now_ms: int) -> None:
        """Before a turn: compact if the conversation has become long. Never fails: without a summary the model is told
        where the text is."""
        keep = to_keep(transcript.view)
        if keep is not None:
            await self.cover_anyhow(run_id, transcript, keep, now_ms)
        raw = to_keep(tuple(transcript.turns.values()), RAW_CHARS_MAX)
        if raw is not None:
            transcript.keep_only(list(raw))

    async def cover_anyhow(
        self, run_id: str, transcript: Transcript, keep: Sequence[TurnLog], now_ms: int
    ) -> None:
        """Compact all turns but these, with a summary if one can be had."""
        try:
            summary = await self._summary(transcript, _covered(transcript, keep), now_ms)
        except ModelError as error:
            self._note(f"the conversation could not be summed up: {error}")
            summary = ""
        self._cover(run_id, transcript, keep, summary)

    async def compact(self, run_id: str, transcript: Transcript, now_ms: int) -> int:
        """Compact the whole conversation; returns how many turns that were. Raises ModelError: nothing is changed."""
        covered = _covered(transcript, ())
        if any(turn.is_worth_remembering for turn in covered):
            self._cover(run_id, transcript, (), await self._summary(transcript, covered, now_ms))
            return len(covered)
        return 0

    def _cover(self, run_id: str, transcript: Transcript, keep: Sequence[TurnLog], summary: str) -> None:
        covered = _covered(transcript, keep)
        try:
            place = self._archive(covered)
        except OSError as error:
            self._note(f"the conversation could not be written to a page: {error.strerror or error}")
            place = ""
        if not summary:
            summary = "\n".join([transcript.summary, NO_SUMMARY.format(place=place or "no file")]).strip()
        transcript.compact(
            run_id, tuple(turn.run_id for turn in covered), cut_middle(summary, SUMMARY_CHARS_MAX), place
        )

    async def _summary(self, transcript: Transcript, covered: Sequence[TurnLog], now_ms: int) -> str:
        """Raises ModelError."""
        asking = TurnLog("compaction", WANTED, now_ms)
        turns = tuple(covered)
        for _ in range(1 + HALVINGS_MAX):
            if not turns and not transcript.summary:
                break
            told = remembered(turns, asking, transcript.summary)
            try:
                async with asyncio.timeout(SUMMARY_S_MAX):
                    said = await self._model.say(
                        Ask(system=self._system(), turns=told, tools=self._tools, no_more_calls=True)
                    )
            except TimeoutError:
                raise ModelError("model_down", f"no summary within {SUMMARY_S_MAX:.0f} s") from None
            except ModelError as error:
                if error.code != "too_long" or not turns:
                    raise
                turns = turns[(len(turns) + 1) // 2:]
                continue
            if said.text.strip():
                return said.text.strip()
            raise ModelError("model_down", "the model wrote no summary")
        raise ModelError("too_long", "the conversation is too long even to be summed up")


def _covered(transcript: Transcript, keep: Sequence[TurnLog]) -> list[TurnLog]:
    return [turn for turn in transcript.view if turn not in keep]
