"""What the owner (and an admin, of the chat's own group) can tell the house in a chat: `/stop`, `/status`, … It goes
past the agent, so it works while that is stuck. From anybody else the same text is a message like any other. Pure: the
router asks and says.
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
#: A longer menu nobody reads.
COMMANDS_MAX = 20

#: The answer to `/compact` where only the built-in skills answer.
NO_MODEL_TO_COMPACT_FOR = (
    "There is nothing to compact: I have no language model, so nothing of a conversation is sent to one. "
    "/new begins a new conversation."
)


class ChatCommand(StrEnum):
    """A command, by what is typed after the slash."""

    HELP = "help"
    STATUS = "status"
    WHOAMI = "whoami"
    STOP = "stop"
    NEW = "new"
    COMPACT = "compact"
    MEMORY = "memory"
    MODEL = "model"
    RESTART = "restart"
    USAGE = "usage"
    CRON = "cron"
    APPROVE = "approve"
    DENY = "deny"
    PAIRING = "pairing"


@dataclass(frozen=True, slots=True)
class Definition:
    """All that there is to say of a command; help and the platforms' menus are made of it."""

    means: str
    #: Shown after the name in the help.
    arguments: str = ""
    #: Other words for it.
    also: tuple[str, ...] = ()
    #: Its words are read where it is decided (`core.approvals`, `core.pairing`); the owner's alone.
    elsewhere: bool = False


COMMANDS: Mapping[ChatCommand, Definition] = {
    ChatCommand.HELP: Definition("what I understand", also=("commands",)),
    ChatCommand.STATUS: Definition("what runs, what waits, what failed lately", also=("queue",)),
    ChatCommand.WHOAMI: Definition("who you are to me, and which group this is"),
    ChatCommand.STOP: Definition("end what I am doing here, at once", "[GROUP]"),
    ChatCommand.NEW: Definition("begin a new conversation; the old one is put aside", "[GROUP]", ("reset",)),
    ChatCommand.COMPACT: Definition(
        "tell the model a summary of the conversation instead; undo: all of it again", "[undo] [GROUP]"
    ),
    ChatCommand.MEMORY: Definition("what I read at every turn, and how much it is", "[GROUP]"),
    ChatCommand.MODEL: Definition("which model thinks; in the main chat: have another one think", "[NAME|default]"),
    ChatCommand.RESTART: Definition("restart all my services; in the main chat"),
    ChatCommand.USAGE: Definition("what the model has cost lately", "[GROUP]"),
    ChatCommand.CRON: Definition("what is planned", also=("tasks",)),
    ChatCommand.APPROVE: Definition("allow what I asked you for", "CODE once|always", elsewhere=True),
    ChatCommand.DENY: Definition("don't allow it", "CODE", elsewhere=True),
    ChatCommand.PAIRING: Definition("who waits to be let in", "[approve|deny CHANNEL CODE]", elsewhere=True),
}
_WORDS: Mapping[str, ChatCommand] = {
    word: command for command, definition in COMMANDS.items() for word in (str(command), *definition.also)
}
_TYPED = re.compile(r"/([a-z]+)(\s+undo)?(?:\s+([A-Za-z0-9._/:-]{1,100}))?\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command as it was typed."""

    command: ChatCommand
    #: The folder of the group that is meant; "" = the chat's own.
    group: str = ""
    #: Take it back (`/compact undo`).
    undo: bool = False


def read_command(text: str) -> Typed | None:
    """The command that this text is, None = it is none (or one that is read elsewhere)."""
    match = _TYPED.match(text.strip())
    command = _WORDS.get(match[1].lower()) if match is not None else None
    if match is None or command is None or COMMANDS[command].elsewhere:
        return None
    if match[2] and command is not ChatCommand.COMPACT:
        return None
    return Typed(command, match[3] or "", undo=bool(match[2]))


def menu() -> list[tuple[str, str]]:
    """Each command and what it does, for platforms that show a list of them."""
    return [(str(command), definition.means) for command, definition in COMMANDS.items()]


def help_text() -> str:
    """The answer to `/help`."""
    lines = [
        f"/{command}{f' {definition.arguments}' if definition.arguments else ''}: {definition.means}"
        for command, definition in COMMANDS.items()
    ]
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
    """The answer to `/cron`. None: the scheduler does not answer."""
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


def memory_text(group: str, files: Iterable[tuple[str, int]], pages: int) -> str:
    """The answer to `/memory`: name and bytes of each memory file, and how many earlier conversations are kept."""
    lines = [f"{name}: {size / 1024:.1f} KiB" for name, size in files]
    return "\n".join([
        f"Read at every turn of {group}:" if lines else f"{group} has no memory files yet.", *lines,
        f"Earlier conversations in its folder: {pages}.",
    ])


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
