"""What the owner can tell the house in a chat: `/stop`, `/status`, … They go past the agent, so they work while it is
stuck. From anybody else the same text is a message like any other. Pure: the router asks and says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from microclaw.core.requests import RunRow, Runs, TaskRow, UsageRow

#: Rows of one kind that an answer shows.
ROWS_SHOWN_MAX = 10
#: Of a prompt or an error, in a row.
ROW_CHARS = 80


class ChatCommand(StrEnum):
    """A command, by what is typed after the slash."""

    HELP = "help"
    STATUS = "status"
    WHOAMI = "whoami"
    STOP = "stop"
    NEW = "new"
    COMPACT = "compact"
    USAGE = "usage"
    TASKS = "tasks"


_MEANS: Mapping[ChatCommand, str] = {
    ChatCommand.HELP: "what I understand",
    ChatCommand.STATUS: "what runs, what waits, what failed lately",
    ChatCommand.WHOAMI: "who you are to me, and which group this is",
    ChatCommand.STOP: "end what I am doing here, at once",
    ChatCommand.NEW: "begin a new conversation; the old one is put aside",
    ChatCommand.COMPACT: "tell the model a summary of the conversation instead; /compact undo: all of it again",
    ChatCommand.USAGE: "what the model has cost lately",
    ChatCommand.TASKS: "what is planned",
}
_ALSO = {"commands": ChatCommand.HELP, "reset": ChatCommand.NEW, "cron": ChatCommand.TASKS}
_TYPED = re.compile(r"/([a-z]+)(?:@\S+)?(\s+undo)?(?:\s+([A-Za-z0-9_-]{1,64}))?\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command as it was typed."""

    command: ChatCommand
    #: The folder of the group that is meant; "" = the chat's own.
    group: str = ""
    #: Take it back (`/compact undo`).
    undo: bool = False


def read_command(text: str) -> Typed | None:
    """The command that this text is, None = it is none."""
    match = _TYPED.match(text.strip())
    if match is None:
        return None
    word = match[1].lower()
    command = _ALSO.get(word) or next((each for each in ChatCommand if each == word), None)
    if command is None or (match[2] and command is not ChatCommand.COMPACT):
        return None
    return Typed(command, match[3] or "", undo=bool(match[2]))


def help_text() -> str:
    """The answer to `/help`."""
    lines = [f"/{command}: {means}" for command, means in _MEANS.items()]
    return "\n".join(["Everything you write goes to the agent, save these:", *lines])


def whoami_text(sender_name: str, chat: str, group: str, *, is_main: bool, role: str = "owner") -> str:
    """The answer to `/whoami`."""
    kind = "the main group" if is_main else "a group"
    who = "my owner" if role == "owner" else f"known to me as {role}"
    return f"You are {sender_name}, {who}. This chat is {chat}; it is {kind}, in folder {group}."


def status_text(runs: Runs | None, group: str, now_ms: int, *, is_main: bool) -> str:
    """The answer to `/status`; main sees every group, others themselves. None: the queue does not answer."""
    if runs is None:
        return "The queue does not answer at present; look with `microclaw status`."

    def of_here(rows: Iterable[RunRow]) -> list[RunRow]:
        return [row for row in rows if is_main or row.group == group]

    lines = [f"running: {row.group}, for {_ago(now_ms - row.since_ms)}{_try(row)}" for row in of_here(runs.running)]
    lines += [
        f"{row.state}: {row.group}, for {_ago(now_ms - row.since_ms)}{_try(row)}" for row in of_here(runs.waiting)
    ]
    lines += [
        f"failed: {row.group}, {_ago(now_ms - row.since_ms)} ago: {_short(row.error)}" for row in of_here(runs.failed)
    ][:3]
    return "\n".join(_some(lines)) or "All is quiet: nothing runs, nothing waits, nothing failed lately."


def tasks_text(tasks: Iterable[TaskRow] | None) -> str:
    """The answer to `/tasks`. None: the scheduler does not answer."""
    if tasks is None:
        return "The scheduler does not answer at present; look with `microclaw status`."
    lines = [
        f"{task.id} ({task.group}, {task.status}): {task.schedule} {task.value}: {_short(task.prompt)}"
        for task in tasks
    ]
    return "\n".join(_some(lines)) or "Nothing is planned."


def usage_text(rows: Iterable[UsageRow] | None, group: str, *, is_main: bool) -> str:
    """The answer to `/usage`. None: egress does not answer."""
    if rows is None:
        return "Nobody can tell the usage at present; look with `microclaw status`."
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if is_main or row.group == group:
            total = sums.setdefault((row.group, row.model), [0, 0, 0])
            for place, count in enumerate((row.calls, row.input_tokens, row.output_tokens)):
                total[place] += count
    lines = [
        f"{group}, {model}: {calls} calls, {tokens_in} tokens in, {tokens_out} out"
        for (group, model), (calls, tokens_in, tokens_out) in sorted(sums.items())
    ]
    return "\n".join(_some(lines)) or "No model was asked in the last 7 days."


def compact_text(group: str, *, undo: bool) -> str:
    """The answer to `/compact`; what came of it the sandbox tells."""
    return f"I take the last compaction of {group} back." if undo else f"I sum up the conversation of {group}."


def stop_text(runs: Runs | None, group: str) -> str:
    """The answer to `/stop`."""
    if runs is not None and not any(row.group == group for row in runs.running):
        return f"Nothing is running in {group}."
    return f"I stop what is running in {group}."


def _try(row: RunRow) -> str:
    return f" (try {row.attempt})" if row.attempt > 1 else ""


def _ago(ms: int) -> str:
    seconds = max(0, ms // 1000)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= ROW_CHARS else line[: ROW_CHARS - 1] + "…"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - ROWS_SHOWN_MAX
    return [*lines[:ROWS_SHOWN_MAX], *([f"… and {more} more"] if more > 0 else [])]
