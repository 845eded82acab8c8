"""What the owner wants done with the conversation so far: `/compact` and its undoing."""

from __future__ import annotations

from microclaw.agent.compaction import Compactor
from microclaw.agent.conversation import Outcome, TurnLog
from microclaw.agent.models import ModelError
from microclaw.agent.transcript import Transcript
from microclaw.core.worker import Turn

NOTHING = "There is nothing to compact: nothing was said since the last time."
NOTHING_TO_UNDO = "There is no compaction that could be undone."
UNDONE = "The last compaction is undone: the conversation is told to the model in full again."
#: Stands where the page could not be written.
NO_PAGE = "no file (the folder can't be written)"


class Past:
    """Changes what of the past the model is told."""

    def __init__(self, compactor: Compactor, *, has_model: bool) -> None:
        self.compactor = compactor
        self._has_model = has_model

    async def change(self, turn: Turn, transcript: Transcript) -> Outcome:
        """Do it, once. The end is in the transcript when this returns."""
        known = transcript.outcomes.get(turn.run_id)
        if known is not None:
            return known
        outcome = await (self._compact if turn.do == "compact" else self._uncompact)(turn, transcript)
        transcript.done(TurnLog(turn.run_id, "", turn.now_ms), outcome)
        return outcome

    def compacted_for(self, turn: Turn, transcript: Transcript) -> str:
        """Where the text is if the conversation was compacted by itself for this turn, else ""."""
        pages = [line.archive for line in transcript.compactions if line.run_id == turn.run_id]
        return (pages[-1] or NO_PAGE) if pages and turn.do == "answer" else ""

    async def _compact(self, turn: Turn, transcript: Transcript) -> Outcome:
        if not self._has_model:
            from microclaw.core.chat_commands import NO_MODEL_TO_COMPACT_FOR  # no worker's start waits for it

            return Outcome(ok=True, text=NO_MODEL_TO_COMPACT_FOR)
        if not any(line.run_id == turn.run_id for line in transcript.compactions):
            try:
                if not await self.compactor.compact(turn.run_id, transcript, turn.now_ms):
                    return Outcome(ok=True, text=NOTHING)
            except ModelError as error:
                return Outcome(ok=True, text=f"The conversation could not be compacted, nothing has changed: {error}")
        page = transcript.compactions[-1].archive or NO_PAGE
        return Outcome(ok=True, text=(
            f"From now on the model is told a summary of the conversation. All of it is in {page}; "
            "/compact undo takes it back."
        ))

    async def _uncompact(self, turn: Turn, transcript: Transcript) -> Outcome:
        if not transcript.can_uncompact:
            return Outcome(ok=True, text=NOTHING_TO_UNDO)
        transcript.uncompact(turn.run_id)
        return Outcome(ok=True, text=UNDONE)
