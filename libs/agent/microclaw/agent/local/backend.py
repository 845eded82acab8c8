"""The embedded model backend: each message is answered by the first skill that understands it."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from microclaw.agent.conversation import Said, TurnLog
from microclaw.agent.local.skills import Asked, answer
from microclaw.agent.models import Ask
from microclaw.agent.plan import Plan, next_message
from microclaw.agent.reading import Message, Prompt, read_prompt
from microclaw.core.text import without_subject
from microclaw.core.worker import Setup


class LocalModel:
    """Deterministic: the answer follows from the prompt, the moment it came and the tools' results."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        #: Raises ZoneInfoNotFoundError: a wrong zone would mean reminders at the wrong hour.
        self._zone = ZoneInfo(setup.timezone or "UTC")

    async def prewarm(self) -> None:
        return

    async def close(self) -> None:
        return

    async def say(self, ask: Ask) -> Said:
        return next_message(self._plan(ask.turn, ask.turns[:-1]), ask.turn)

    def _plan(self, turn: TurnLog, earlier: tuple[TurnLog, ...]) -> Plan:
        prompt = read_prompt(turn.prompt)
        is_task = prompt.is_task or turn.is_task
        now = datetime.fromtimestamp(first_asked_ms(turn, prompt, earlier) / 1000, self._zone)
        lines: list[str] = []
        for message in prompt.messages if is_task else self._addressed(prompt.messages):
            asked = Asked(
                text=self._without_name(without_subject(message.text)), now=now,
                assistant=self._setup.assistant_name, is_task=is_task,
            )
            text = yield from answer(asked)
            if text and text not in lines:
                lines.append(text)
        return "\n".join(lines)

    def _addressed(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Of several people's messages, those that call the assistant by name, if any does; the main group's are
        all for it."""
        if self._setup.is_main:
            return messages
        called = tuple(message for message in messages if self._name().search(message.text))
        return called or messages

    def _name(self) -> re.Pattern[str]:
        return re.compile(rf"@{re.escape(self._setup.assistant_name)}\b[,:]?\s*", re.IGNORECASE)

    def _without_name(self, text: str) -> str:
        return self._name().sub("", text).strip()


def first_asked_ms(turn: TurnLog, prompt: Prompt, earlier: tuple[TurnLog, ...]) -> int:
    """When these messages were first worked on. A turn that failed is tried again with the same messages, and "in ten
    minutes" means then the same moment: what was scheduled is recognised, and not scheduled a second time."""
    tries = [
        each.now_ms for each in earlier
        if (each.outcome is None or not each.outcome.ok)
        and read_prompt(each.prompt).messages[:1] == prompt.messages[:1]
    ]
    return min(tries, default=turn.now_ms)
