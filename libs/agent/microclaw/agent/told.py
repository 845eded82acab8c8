"""What a provider is told of a conversation, apart from its dialect: the words for what has no words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from microclaw.agent.conversation import Call, Step, TurnLog, call_id

#: Providers refuse an empty text.
NOTHING = "[nothing]"


def prompt_text(turn: TurnLog, zone: ZoneInfo) -> str:
    """The prompt with the moment it came: there, and not in the system prompt, so that what comes before it stays
    the same and can be cached."""
    now = datetime.fromtimestamp(turn.now_ms / 1000, zone)
    return f'<now time="{now:%A %Y-%m-%d %H:%M:%S}" timezone="{zone.key}" />\n{turn.prompt}'


def ending(turn: TurnLog) -> str:
    """What closes an earlier turn that did not end with the model's own words."""
    if turn.steps and not turn.steps[-1].said.calls:
        return ""
    why = turn.outcome.error if turn.outcome is not None and turn.outcome.error else "it was interrupted"
    return f"[this turn ended early: {why}]"


def results(step: Step) -> Iterator[tuple[Call, bool, str]]:
    """Each call of a step, whether it went well, and what the model is told of it."""
    for call, result in step.answers():
        yield call, result.ok, result.text or NOTHING


def read_call(run_id: str, step: int, index: int, name: str, arguments: str) -> Call:
    """A call as the model wrote it. Arguments that are no JSON object become a call that is not run."""
    name_of_it = call_id(run_id, step, index)
    try:
        args: Any = msgspec.json.decode(arguments.encode()) if arguments.strip() else {}
    except msgspec.DecodeError as error:
        return Call(call_id=name_of_it, name=name, broken=str(error))
    if not isinstance(args, dict):
        return Call(call_id=name_of_it, name=name, broken="not an object")
    return Call(call_id=name_of_it, name=name, args=args)
