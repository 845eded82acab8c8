"""Chats, the groups they can become, and the folders of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from microclaw.core.container import Container, problem_of
from microclaw.core.requests import Group, KnownChat

#: Folder names that are taken by the house, in any case: `groups/global` is the memory all groups share.
RESERVED_FOLDERS = frozenset({"global"})
FOLDER_CHARS_MAX = 64
CHAT_CHARS_MAX = 200
NAME_CHARS_MAX = 200
TRIGGER_CHARS_MAX = 100
#: The main group's folder.
MAIN_FOLDER = "main"
#: Chats that are no conversations: neither stored nor listed.
NO_CHATS = frozenset({"status@broadcast", "__group_sync__"})

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_CHAT = re.compile(r"[a-z][a-z0-9_]*:\S.*\Z")


def is_folder(folder: str) -> bool:
    """Whether this may name a group's folder: 1–64 of `A-Za-z0-9_-`, a letter or digit first, not reserved."""
    return (
        len(folder) <= FOLDER_CHARS_MAX
        and _FOLDER.match(folder) is not None
        and folder.casefold() not in RESERVED_FOLDERS
    )


def folder_key(folder: str) -> str:
    """Equal for folders that some file system would take for the same one."""
    return folder.casefold()


def is_chat(chat: str) -> bool:
    """Whether this is a chat's address, `channel:native-id`."""
    return len(chat) <= CHAT_CHARS_MAX and _CHAT.match(chat) is not None and chat.isprintable()


def channel_of(chat: str) -> str:
    """The channel of a chat's address."""
    return chat.partition(":")[0]


def native_of(chat: str) -> str:
    """The platform's own id in a chat's address."""
    return chat.partition(":")[2]


def is_conversation(chat: str) -> bool:
    """Whether the chat is one that people talk in, and not a platform's own bookkeeping."""
    return chat not in NO_CHATS and native_of(chat) not in NO_CHATS


def open_for_registration(chats: Iterable[KnownChat]) -> list[KnownChat]:
    """The group chats that could be registered or are, the one with the latest message first."""
    fit = [chat for chat in chats if chat.is_group and is_conversation(chat.chat)]
    return sorted(fit, key=lambda chat: (-chat.last_message_ms, chat.chat))


@dataclass(frozen=True)
class Registration:
    """What somebody wants registered. Whether it is main is never asked for: that is not given by request."""

    chat: str
    folder: str
    name: str
    trigger: str = ""
    requires_trigger: bool = True
    #: None = as it was.
    container: Container | None = None


@dataclass(frozen=True)
class Rejected:
    """Not registered. `reason` is one line; `conflict`: something else has that place already."""

    reason: str
    conflict: bool = False


def decide_registration(
    wanted: Registration, registered: Iterable[Group], *, now_ms: int
) -> Group | Rejected:
    """The group as it will be, or why not.

    The same chat again is an update: `is_main` and `added_ms` stay, and `container` where nothing is said of it.
    """
    rejected = _malformed(wanted)
    if rejected is not None:
        return rejected
    before: Group | None = None
    for group in registered:
        if group.chat == wanted.chat:
            before = group
        elif folder_key(group.folder) == folder_key(wanted.folder):
            return Rejected(
                f"folder {wanted.folder!r} belongs to {group.chat} ({group.name}): choose another",
                conflict=True,
            )
    if before is not None and before.is_main and before.folder != wanted.folder:
        return Rejected(f"{wanted.chat} is the main group: its folder stays {before.folder!r}", conflict=True)
    return Group(
        chat=wanted.chat,
        folder=wanted.folder,
        name=wanted.name,
        trigger=wanted.trigger.strip(),
        requires_trigger=wanted.requires_trigger,
        is_main=before.is_main if before is not None else False,
        added_ms=before.added_ms if before is not None else now_ms,
        container=wanted.container or (before.container if before is not None else Container()),
    )


def missing_fields(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """What an agent's `register_group` lacks. It must name the trigger too, if only as ""."""
    return tuple(
        field for field in ("chat", "name", "folder", "trigger")
        if not isinstance(arguments.get(field), str) or (field != "trigger" and not arguments[field])
    )


def _malformed(wanted: Registration) -> Rejected | None:
    for field in ("chat", "folder", "name"):
        if not getattr(wanted, field).strip():
            return Rejected(f"{field} is missing: a registration needs chat, folder and name")
    if not is_chat(wanted.chat):
        return Rejected(f"{wanted.chat[:60]!r} is not a chat: write channel:id, as `microclaw groups list` shows it")
    if not is_folder(wanted.folder):
        return Rejected(
            f"{wanted.folder[:70]!r} can't be a folder: use 1 to {FOLDER_CHARS_MAX} of A-Z a-z 0-9 _ -, "
            "a letter or digit first, and not the reserved `global`"
        )
    for field, limit in (("name", NAME_CHARS_MAX), ("trigger", TRIGGER_CHARS_MAX)):
        value = getattr(wanted, field)
        if len(value) > limit or not value.replace("\t", " ").isprintable():
            return Rejected(f"{field} must be one line of at most {limit} characters")
    if wanted.container is not None and (problem := problem_of(wanted.container)):
        return Rejected(problem)
    return None
