"""What the assistant can do without a model: a table of patterns, each with a plan that answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from microclaw.agent.plan import Plan


@dataclass(frozen=True)
class Asked:
    """One message for the assistant, without its name."""

    text: str
    #: Now, in the owner's zone.
    now: datetime
    assistant: str
    is_task: bool = False


#: Answers a message that its pattern matched; an answer of None means that it is none of its business after all.
Skill = Callable[[Asked, re.Match[str]], Plan | None]

NO_MODEL = (
    "I have no language model yet, so I only understand a few things: say \"help\" to see them. To give me a model, "
    "put its key in with `microclaw secrets set anthropic`, and in the configuration file (`microclaw config path`) "
    "write [model] backend = \"anthropic\", key = \"anthropic\"; then `microclaw restart`."
)

HELP = """\
I can do these things without a language model:
• reminders: "remind me in 10 minutes to stretch", "remind me tomorrow at 9 to call mum", "every weekday at 8:30 tell \
me to stand up", "every 20 minutes remind me to drink"
• "list my reminders", "cancel reminder 2", "pause reminder 1", "resume reminder 1"
• notes: "note: the code is 42", "show notes", "delete note 2"
• a to-do list: "todo: buy milk", "show my todos", "done 1", "remove todo 2"
• files of this group: "list files", "show notes.md"
• "what time is it", "what date is it"
To give me a model: `microclaw secrets set anthropic`, then [model] backend = "anthropic", key = "anthropic" in the \
configuration file (`microclaw config path`), then `microclaw restart`."""


def plain(text: str) -> Plan:
    """An answer that needs no tool."""
    return text
    yield  # a generator, like every plan


def answer(asked: Asked) -> Plan:
    """The plan of the first skill that understands the message."""
    from microclaw.agent.local import lists, reminders, sayings

    text = " ".join(asked.text.split()).rstrip()
    for pattern, skill in (*reminders.SKILLS, *lists.SKILLS, *sayings.SKILLS):
        if match := re.match(pattern, asked.text.strip() if "(?s)" in pattern else text, re.IGNORECASE):
            plan = skill(asked, match)
            if plan is not None:
                return plan
    if asked.is_task:
        return plain(f"⏰ {asked.text.strip()}")
    return plain(NO_MODEL)
