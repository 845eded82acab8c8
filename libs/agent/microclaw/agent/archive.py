"""Conversations that leave a session, as pages a person and the agent can read: `conversations/DATE-….md` in the
group's folder.

Written by the agent inside its sandbox, and by the host when it puts a session aside: the folder is one that agents
write in, so nothing there is followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from microclaw.agent.beneath import write_beneath
from microclaw.agent.conversation import TurnLog
from microclaw.agent.reading import read_prompt
from microclaw.core.memory_files import CONVERSATIONS_FOLDER
from microclaw.core.requests import SessionTurn
from microclaw.core.text import strip_internal

#: Of one message or answer, characters; of a page, bytes: what is beyond them is cut, with a note.
TEXT_CHARS_MAX = 20_000
PAGE_BYTES_MAX = 4_000_000


def archive(group_folder: Path, turns: Sequence[SessionTurn], *, assistant: str, zone: ZoneInfo) -> str:
    """Write these turns down; returns the page's path below the group's folder. The same turns are the same page.

    Raises OSError: the place is not a folder of ours, or the disk is full.
    """
    name = _name(turns, zone)
    raw = page(turns, assistant=assistant, zone=zone).encode("utf-8", "replace")[:PAGE_BYTES_MAX]
    write_beneath(group_folder, CONVERSATIONS_FOLDER, name, raw)
    return f"{CONVERSATIONS_FOLDER}/{name}"


def page(turns: Iterable[SessionTurn], *, assistant: str, zone: ZoneInfo) -> str:
    """The turns as Markdown."""
    parts = ["# An earlier conversation"]
    for turn in turns:
        moment = f"{datetime.fromtimestamp(turn.began_ms / 1000, zone):%Y-%m-%d %H:%M}"
        prompt = read_prompt(turn.prompt)
        for message in prompt.messages:
            sender = "Scheduled task" if prompt.is_task else message.sender or "Somebody"
            parts.append(f"**{sender}** ({message.time or moment}): {_cut(message.text)}")
        if turn.tools:
            parts.append(f"*{assistant} used {', '.join(turn.tools)}*")
        if said := strip_internal(turn.answer) or (f"[{turn.error}]" if turn.error else ""):
            parts.append(f"**{assistant}**: {_cut(said)}")
    return "\n\n".join(parts) + "\n"


def as_told(turn: TurnLog) -> SessionTurn:
    """A turn as it is shown to people."""
    return SessionTurn(
        run_id=turn.run_id, began_ms=turn.now_ms, prompt=turn.prompt,
        answer=turn.outcome.text if turn.outcome else "", error=turn.outcome.error if turn.outcome else "",
        tools=tuple(call.name for step in turn.steps for call in step.said.calls),
    )


def _name(turns: Sequence[SessionTurn], zone: ZoneInfo) -> str:
    day = datetime.fromtimestamp(max((turn.began_ms for turn in turns), default=0) / 1000, zone)
    own = hashlib.blake2b("\n".join(turn.run_id for turn in turns).encode(), digest_size=4).hexdigest()
    return f"{day:%Y-%m-%d}-{own}.md"


def _cut(text: str) -> str:
    missing = len(text) - TEXT_CHARS_MAX
    return text if missing <= 0 else f"{text[:TEXT_CHARS_MAX]}\n[cut here: {missing} more characters]"
