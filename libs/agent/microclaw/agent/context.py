"""How much of the past a model is told: pure, and always whole turns, so that no call is parted from its result."""

from __future__ import annotations

from microclaw.agent.conversation import Result, Step, TurnLog

#: A session larger than this loses its oldest turns until it is at most half as large, in characters (about four a
#: token). Half, so that the beginning stays the same for many turns, which is what providers' caches live from.
SESSION_CHARS_MAX = 240_000
#: Above this the older results of the turn under way are left out, oldest first.
TURN_CHARS_MAX = 400_000
#: Results that are never left out: the newest of the turn.
RESULTS_KEPT = 4

LEFT_OUT = "[left out: this result is too far back; call the tool again if it is needed]"


def to_keep(turns: tuple[TurnLog, ...]) -> tuple[TurnLog, ...] | None:
    """The turns to keep in the session's file; None if it is fine as it is.

    Turns that failed without having done anything are not worth a place, but they alone are no reason to rewrite it.
    """
    if sum(turn.chars for turn in turns) <= SESSION_CHARS_MAX:
        return None
    kept: list[TurnLog] = []
    size = 0
    for turn in reversed([turn for turn in turns if turn.is_worth_remembering]):
        size += turn.chars
        if size > SESSION_CHARS_MAX // 2:
            break
        kept.append(turn)
    return tuple(reversed(kept))


def remembered(turns: tuple[TurnLog, ...], current: TurnLog) -> tuple[TurnLog, ...]:
    """What the model is told: the earlier turns that matter, then the one under way."""
    return (*(turn for turn in turns if turn is not current and turn.is_worth_remembering), current)


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
        for name, result in step.results.items():
            if excess > 0 and name not in newest and len(result.text) > len(LEFT_OUT):
                excess -= len(result.text)
                copy.results[name] = Result(call_id=name, ok=result.ok, text=LEFT_OUT)
            else:
                copy.results[name] = result
        shorter.steps.append(copy)
    return (*turns[:-1], shorter)
