"""Who may do what: the agents' host tools, and the people who write in chats.

An agent's identity is its run's, as the host knows it; nothing that the agent says of itself counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from microclaw.core.groups import open_for_registration
from microclaw.core.requests import KnownChat, TaskRow

# --- agents ---


@dataclass(frozen=True)
class Allowed:
    """Go on."""


@dataclass(frozen=True)
class Denied:
    """Not allowed. `reason` is one line for the agent and the audit."""

    reason: str


#: Tools about one task of the scheduler.
TASK_TOOLS = frozenset({"pause_task", "resume_task", "cancel_task", "update_task"})
#: Tools for the main group's agent alone.
MAIN_TOOLS = frozenset({"register_group", "list_groups", "refresh_groups"})

#: What others than main may do in their own chat alone.
_OWN_CHAT = {"send_message": "write to", "send_file": "write to", "search_messages": "search"}


def may(tool: str, viewer: str, viewer_is_main: bool, *, target: str | None = None) -> Allowed | Denied:
    """Whether the agent of group `viewer` may use this host tool.

    `target` is the folder of the group that the chat or the task in question belongs to; None = the chat is
    not registered, the task does not exist. What is not known to be allowed is denied.
    """
    if tool == "list_tasks":
        return Allowed()
    if tool in MAIN_TOOLS:
        return Allowed() if viewer_is_main else Denied(f"{tool} is for the main group only")
    if tool == "ask_user":
        return Allowed() if target == viewer else Denied("ask_user: a group may ask in its own chat only")
    if tool in _OWN_CHAT:
        if viewer_is_main or target == viewer:
            return Allowed()
        # The same words whether that chat exists or not.
        return Denied(f"{tool}: this group may {_OWN_CHAT[tool]} its own chat only")
    if tool == "schedule_task":
        if target is None:
            return Denied("schedule_task: that chat is not a registered group; list_groups shows which are")
        if viewer_is_main or target == viewer:
            return Allowed()
        return Denied("schedule_task: this group may schedule for itself only")
    if tool in TASK_TOOLS:
        if target is not None and (viewer_is_main or target == viewer):
            return Allowed()
        # The same words for both, so that a group can't find out what others have.
        return Denied(f"{tool}: this group has no such task; list_tasks shows which it has")
    return Denied(f"{tool[:60]!r} is not a tool of the host")


def visible_tasks(tasks: Iterable[TaskRow], viewer: str, viewer_is_main: bool) -> list[TaskRow]:
    """The tasks a group's agent sees: main all, others their own."""
    return [task for task in tasks if viewer_is_main or task.group == viewer]


def visible_chats(chats: Iterable[KnownChat], viewer_is_main: bool) -> list[KnownChat]:
    """The chats a group's agent sees for registration: main all group chats, others none."""
    return open_for_registration(chats) if viewer_is_main else []


# --- people ---


class SenderRule(msgspec.Struct, frozen=True):
    """Who may wake the assistant in a chat: `allow` "*" or the exact senders.

    What the others write is kept without waking it (`trigger`), or not even stored (`drop`).
    """

    allow: Literal["*"] | tuple[str, ...]
    mode: Literal["trigger", "drop"] = "trigger"


EVERYBODY = SenderRule(allow="*")


@dataclass(frozen=True)
class SenderRules:
    """The allow-list: a rule for all chats, and chats with a rule of their own."""

    default: SenderRule = EVERYBODY
    chats: Mapping[str, SenderRule] = field(default_factory=dict)


#: What holds while the allow-list can't be read: nobody wakes the assistant, nothing is lost.
NOBODY = SenderRules(default=SenderRule(allow=()))


@dataclass(frozen=True)
class SenderVerdict:
    #: The sender is on the list.
    allowed: bool
    #: The message is stored.
    stored: bool


def judge_sender(rules: SenderRules, chat: str, sender: str) -> SenderVerdict:
    """What becomes of a message of this sender. Only an allowed one's may trigger."""
    rule = rules.chats.get(chat, rules.default)
    allowed = rule.allow == "*" or sender in rule.allow
    return SenderVerdict(allowed=allowed, stored=allowed or rule.mode != "drop")


def read_sender_rules(raw: str | bytes | None) -> tuple[SenderRules, tuple[str, ...]]:
    """The allow-list in this JSON text, and what the owner must be told of it.

    None (there is no list) allows everybody. A damaged list allows nobody; a damaged entry of one chat is
    skipped, the default holds there.
    """
    if raw is None:
        return SenderRules(), ()
    try:
        content = msgspec.json.decode(raw, type=dict[str, Any])
        default = msgspec.convert(content.get("default"), SenderRule)
        entries = msgspec.convert(content.get("chats", {}), dict[str, Any])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return NOBODY, (f"the sender allow-list can't be read ({error}): until it is mended nobody wakes me",)
    chats: dict[str, SenderRule] = {}
    problems: list[str] = []
    for chat, entry in entries.items():
        try:
            chats[chat] = msgspec.convert(entry, SenderRule)
        except msgspec.ValidationError as error:
            problems.append(f"the sender allow-list's entry for {chat} is skipped, mend it ({error})")
    return SenderRules(default, chats), tuple(problems)
