"""How much of the past a model is told: pure, and always whole turns, so that no call is parted from its result."""

from __future__ import annotations

from microclaw.agent.conversation import Outcome, Result, Said, Step, TurnLog
from microclaw.core.prompt import escape

#: Of a conversation larger than this the oldest turns are told as a summary, so that the rest is at most half as large,
#: in characters (about four a token). Half, so that the beginning stays the same for many turns, which is what
#: providers' caches live from.
SESSION_CHARS_MAX = 240_000
#: Turns that are told as a summary stay in the session's file until all together are larger than this; then the oldest
#: go, until they are at most half as large. Their text is in the group's `conversations` folder.
RAW_CHARS_MAX = 2_000_000
#: Above this the older results of the turn under way are left out, oldest first.
TURN_CHARS_MAX = 400_000
#: Results that are never left out: the newest of the turn.
RESULTS_KEPT = 4

LEFT_OUT = "[left out: this result is too far back; call the tool again if it is needed]"


def to_keep(turns: tuple[TurnLog, ...], chars_max: int = SESSION_CHARS_MAX) -> tuple[TurnLog, ...] | None:
    """The turns to keep of these; None if they are fine as they are.

    Turns that failed without having done anything are not worth a place, but they alone are no reason to rewrite it.
    """
    if sum(turn.chars for turn in turns) <= chars_max:
        return None
    kept: list[TurnLog] = []
    size = 0
    for turn in reversed([turn for turn in turns if turn.is_worth_remembering]):
        size += turn.chars
        if size > chars_max // 2:
            break
        kept.append(turn)
    return tuple(reversed(kept))


def remembered(turns: tuple[TurnLog, ...], current: TurnLog, summary: str = "") -> tuple[TurnLog, ...]:
    """What the model is told: what stands for the turns before these, the earlier turns that matter, then the one
    under way."""
    earlier = [turn for turn in turns if turn is not current and turn.is_worth_remembering]
    if summary:
        earlier.insert(0, _summarised(summary, earlier[0].now_ms if earlier else current.now_ms))
    return (*earlier, current)


def _summarised(summary: str, now_ms: int) -> TurnLog:
    """A turn like any other: what was said in a chat never becomes a rule by being summed up."""
    turn = TurnLog("summary", f"[Summary of the conversation before]\n<summary>\n{escape(summary)}\n</summary>", now_ms)
    turn.steps.append(Step(Said(text="Understood.")))
    turn.outcome = Outcome(ok=True, text="Understood.", steps=1)
    return turn


def fits(turns: tuple[TurnLog, ...]) -> tuple[TurnLog, ...]:
    """The same turns, with the current one's older results left out if it has grown too large."""
    current = turns[-1]
    if current.chars <= TURN_CHARS_MAX:
        return turns
    shorter = TurnLog(current.run_id, current.prompt, current.now_ms, current.is_task)
    excess = current.chars - TURN_CHARS_MAX // 2
    newest = [name for step in current.steps for name in step.results][-RESULTS_KEPT:]
    for step in current.steps:
        copy = Step(step.said)
        copy.started = step.started
        copy.doubt = step.doubt
        for name, result in step.results.items():
            if excess > 0 and name not in newest and len(result.text) > len(LEFT_OUT):
                excess -= len(result.text)
                copy.results[name] = Result(call_id=name, ok=result.ok, text=LEFT_OUT)
            else:
                copy.results[name] = result
        shorter.steps.append(copy)
    return (*turns[:-1], shorter)
