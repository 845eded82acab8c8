"""The turns of a session on disk: one JSON line a fact, on the disk *before* anything is done about it.

The order of the lines of a turn: `turn`, then for each step `model`, then for each call `started` and `result` (or
one `doubted`), and at the end `done`. `compacted` and `uncompacted` change what of it the model is told, never what is
here. Whoever is killed and started again reads the file and knows for each call whether it was never begun, begun, or
finished. A line that was cut off by a loss of power is dropped; everything before it holds, because a line is only
acted on after `fsync`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from microclaw.agent.conversation import Outcome, Result, Said, Step, TurnLog
from microclaw.core.worker import decode_deep

#: The end of a turn that never ended and was left behind: it can't go on, for what it did is forgotten.
LEFT_BEHIND = "the turn was interrupted and later ones have pushed it out of the session; ask again"
#: Ends of earlier turns that are kept for a host that asks again.
OUTCOMES_KEPT_MAX = 64


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="what"):
    """One fact of a turn."""

    run_id: str


class TurnLine(Line, frozen=True, tag="turn"):
    prompt: str
    now_ms: int
    is_task: bool = False


class ModelLine(Line, frozen=True, tag="model"):
    said: Said


class StartedLine(Line, frozen=True, tag="started"):
    call_id: str


class ResultLine(Line, frozen=True, tag="result"):
    result: Result


class DoubtedLine(Line, frozen=True, tag="doubted"):
    """The last message of the model was not taken as its answer; it was told this, and goes on."""

    text: str


class DoneLine(Line, frozen=True, tag="done"):
    outcome: Outcome


class CompactedLine(Line, frozen=True, tag="compacted"):
    """From now on the model is told `summary` in the place of these turns, which stay here."""

    covers: tuple[str, ...]
    summary: str
    #: Where their text is, below the group's folder; "" = it could not be written.
    archive: str = ""


class UncompactedLine(Line, frozen=True, tag="uncompacted"):
    """The last compaction is undone."""


AnyLine = TurnLine | ModelLine | StartedLine | ResultLine | DoubtedLine | DoneLine | CompactedLine | UncompactedLine
_decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


def decode_line(raw: bytes) -> AnyLine:
    """One line of a session's file. Raises msgspec.DecodeError, msgspec.ValidationError."""
    return decode_deep(_decoder, raw)


class Transcript:
    """One session's file. Not safe for two writers: the worker of a group is its only one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Remembered turns in order; the one under way, if any, is among them.
        self.turns: dict[str, TurnLog] = {}
        #: Ends of turns whose steps are forgotten already.
        self.outcomes: dict[str, Outcome] = {}
        #: Compactions in force, the last one's summary speaks for all of them.
        self.compactions: list[CompactedLine] = []
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._load()

    def close(self) -> None:
        os.close(self._fd)

    # --- reading ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        whole = 0
        with os.fdopen(self._fd, "rb", closefd=False) as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                try:
                    self._take(decode_line(raw))
                except (msgspec.DecodeError, KeyError, IndexError):
                    # Not a torn end but a damaged file: keep it for a person to look at.
                    shutil.copyfile(self.path, self.path.with_suffix(".damaged"))
                    break
                whole += len(raw)
        if whole < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, whole)
            os.fsync(self._fd)

    def _take(self, line: Line) -> None:
        match line:
            case CompactedLine():
                self.compactions.append(line)
            case UncompactedLine():
                self.compactions.pop()
            case TurnLine():
                # A repeat of a turn that failed goes on with the steps it has, at the end of the order.
                known = self.turns.pop(line.run_id, None)
                turn = known or TurnLog(line.run_id, line.prompt, line.now_ms, line.is_task)
                turn.outcome = None
                self.turns[line.run_id] = turn
                self.outcomes.pop(line.run_id, None)
            case DoneLine():
                known = self.turns.get(line.run_id)
                if known is not None:
                    known.outcome = line.outcome
                self.outcomes.pop(line.run_id, None)
                self.outcomes[line.run_id] = line.outcome
                while len(self.outcomes) > OUTCOMES_KEPT_MAX:
                    del self.outcomes[next(iter(self.outcomes))]
            case ModelLine():
                self.turns[line.run_id].steps.append(Step(line.said))
            case DoubtedLine():
                self.turns[line.run_id].steps[-1].doubt = line.text
            case StartedLine():
                self.turns[line.run_id].steps[-1].started.add(line.call_id)
            case ResultLine():
                self.turns[line.run_id].steps[-1].results[line.result.call_id] = line.result

    @property
    def view(self) -> tuple[TurnLog, ...]:
        """The turns that no compaction covers."""
        covered = {run_id for line in self.compactions for run_id in line.covers}
        return tuple(turn for turn in self.turns.values() if turn.run_id not in covered)

    @property
    def summary(self) -> str:
        """What stands for the others; "" = nothing does."""
        return self.compactions[-1].summary if self.compactions else ""

    @property
    def can_uncompact(self) -> bool:
        """The turns of the last compaction are still here."""
        return bool(self.compactions) and any(run_id in self.turns for run_id in self.compactions[-1].covers)

    # --- writing ------------------------------------------------------------------------------------------------

    def _append(self, line: Line, *, sync: bool) -> None:
        before = os.fstat(self._fd).st_size
        view = memoryview(msgspec.json.encode(line) + b"\n")
        try:
            while view:
                view = view[os.write(self._fd, view):]
            if sync:
                os.fsync(self._fd)
        except OSError:
            # Half a line with another one behind it would cost all that follows.
            os.ftruncate(self._fd, before)
            raise
        self._take(line)

    def begin(self, run_id: str, prompt: str, now_ms: int, is_task: bool) -> TurnLog:
        """A turn begins, or begins again. Not synced: nothing is done yet because of it."""
        self._append(TurnLine(run_id=run_id, prompt=prompt, now_ms=now_ms, is_task=is_task), sync=False)
        return self.turns[run_id]

    def said(self, turn: TurnLog, said: Said) -> Step:
        """A message of the model. Synced if it asks for something to be done, else with the turn's end."""
        self._append(ModelLine(run_id=turn.run_id, said=said), sync=bool(said.calls))
        return turn.steps[-1]

    def started(self, turn: TurnLog, call_id: str) -> None:
        """A tool with side effects is about to run."""
        self._append(StartedLine(run_id=turn.run_id, call_id=call_id), sync=True)

    def result(self, turn: TurnLog, result: Result) -> None:
        """A tool has run. Synced with the next line that is: losing it to a power cut means asking again, or
        "interrupted" for a tool that may not run twice."""
        self._append(ResultLine(run_id=turn.run_id, result=result), sync=False)

    def doubted(self, turn: TurnLog, text: str) -> None:
        """The model is told this about its answer. Not synced: the answer, from which it follows, is not yet either."""
        self._append(DoubtedLine(run_id=turn.run_id, text=text), sync=False)

    def done(self, turn: TurnLog, outcome: Outcome) -> None:
        """The turn's end, before the host hears of it."""
        self._append(DoneLine(run_id=turn.run_id, outcome=outcome), sync=True)

    def compact(self, run_id: str, covers: tuple[str, ...], summary: str, archive: str) -> None:
        """Have the model told the summary in the place of these turns."""
        self._append(CompactedLine(run_id=run_id, covers=covers, summary=summary, archive=archive), sync=True)

    def uncompact(self, run_id: str) -> None:
        """Take the last compaction back; only if `can_uncompact`."""
        self._append(UncompactedLine(run_id=run_id), sync=True)

    def keep_only(self, keep: list[TurnLog]) -> None:
        """Forget all other turns' steps (their ends stay known). The file is replaced in one move."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            kept = {turn.run_id for turn in keep}
            left = {
                turn.run_id: Outcome(ok=False, error=LEFT_BEHIND, error_code="stale_session", steps=len(turn.steps))
                for turn in self.turns.values() if turn.outcome is None and turn.steps
            }
            for run_id, outcome in (self.outcomes | left).items():
                if run_id not in kept:
                    file.write(msgspec.json.encode(DoneLine(run_id=run_id, outcome=outcome)) + b"\n")
            for turn in keep:
                for line in _lines_of(turn):
                    file.write(msgspec.json.encode(line) + b"\n")
            for compaction in self.compactions:
                covers = tuple(run_id for run_id in compaction.covers if run_id in kept)
                # The last one's summary is told though the turns are forgotten.
                if covers or compaction is self.compactions[-1]:
                    line = msgspec.structs.replace(compaction, covers=covers)
                    file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o600)
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        os.close(self._fd)
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.turns, self.outcomes, self.compactions = {}, {}, []
        self._load()


def _lines_of(turn: TurnLog) -> list[Line]:
    lines: list[Line] = [
        TurnLine(run_id=turn.run_id, prompt=turn.prompt, now_ms=turn.now_ms, is_task=turn.is_task)
    ]
    for step in turn.steps:
        lines.append(ModelLine(run_id=turn.run_id, said=step.said))
        lines += [StartedLine(run_id=turn.run_id, call_id=name) for name in sorted(step.started)]
        lines += [ResultLine(run_id=turn.run_id, result=result) for result in step.results.values()]
        if step.doubt:
            lines.append(DoubtedLine(run_id=turn.run_id, text=step.doubt))
    if turn.outcome is not None:
        lines.append(DoneLine(run_id=turn.run_id, outcome=turn.outcome))
    return lines
