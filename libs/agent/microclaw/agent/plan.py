"""Answers that follow from rules: a plan is a generator that yields calls and is given their results.

Run again from its beginning with the results so far it comes to the same place, so a plan needs no state of its own:
the transcript is its state, and it survives a kill like the turn of any model.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from microclaw.agent.conversation import Call, Result, Said, TurnLog, call_id


class Want(NamedTuple):
    """A tool that a plan wants."""

    name: str
    args: dict[str, Any]


#: Yields what it wants, is sent the results, returns the text of the answer.
Plan = Generator[Want, Result, str]


def next_message(plan: Plan, turn: TurnLog) -> Said:
    """The message that follows the steps the turn already has."""
    try:
        want = next(plan)
        for step in turn.steps:
            (_, result), *_ = step.answers()
            want = plan.send(result)
    except StopIteration as end:
        return Said(text=str(end.value))
    name = call_id(turn.run_id, len(turn.steps), 0)
    return Said(calls=(Call(call_id=name, name=want.name, args=want.args),))
