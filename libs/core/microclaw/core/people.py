"""Who somebody is to the house, and what becomes of what they write. Pure.

A *user* is a person we know: a role, and the senders that are this person (`telegram:12345`, `email:ann@example.org`).
The console's user is the owner. Whoever we don't know is held at the door of a direct chat until the owner lets them
in (`core.pairing`), and in a registered group is one of its members.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from microclaw.core.groups import FOLDER_CHARS_MAX, channel_of, folder_key, is_folder
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Group

#: Channels whose every sender is known by other means: this machine's user, a device by its certificate.
LOCAL_CHANNELS = frozenset({"console", "device"})
#: Channels that carry the owner's whole correspondence: strangers there write to the owner, not to us.
OWNERS_MAILBOXES = frozenset({"imessage"})
SENDER_CHARS_MAX = 300
USER_CHARS_MAX = 40
#: Of a stranger's name in the house's own words.
SHOWN_NAME_CHARS = 60

_USER = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
_SENDER = re.compile(r"[a-z][a-z0-9_]*:\S(.*\S)?\Z")


class Role(StrEnum):
    """What somebody may."""

    #: Everything, approvals included.
    OWNER = "owner"
    #: Commands (`/stop`, `/status`, `/new`, …) about the chat's own group.
    ADMIN = "admin"
    #: Talk.
    MEMBER = "member"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person we know."""

    #: `[a-z0-9_-]`, unique.
    name: str
    role: Role
    #: The group that direct chats with this person belong to.
    folder: str
    senders: tuple[str, ...] = ()
    added_ms: int = 0


class Entry(StrEnum):
    """What becomes of a message."""

    #: Its group gets it.
    SERVE = "serve"
    #: It is the first one of a person we know in a direct chat: the chat joins this person's group, which gets it.
    JOIN = "join"
    #: Somebody we don't know: it waits for the owner's word.
    HOLD = "hold"
    #: Nobody gets it.
    IGNORE = "ignore"


def is_user_name(name: str) -> bool:
    """Whether this may be the name of a user: 1–40 of `a-z0-9_-`, not beginning with `-` or `_`."""
    return len(name) <= USER_CHARS_MAX and _USER.match(name) is not None


def is_sender(sender: str) -> bool:
    """Whether this is a sender's full id, `channel:native-id`."""
    return len(sender) <= SENDER_CHARS_MAX and _SENDER.match(sender) is not None and sender.isprintable()


def sender_of(received: MessageReceived) -> str:
    """The full id of who wrote it. The channel is the chat's, for which the broker vouches."""
    channel = channel_of(received.chat)
    # An address of e-mail is the same in any case.
    native = received.sender.casefold() if channel == "email" else received.sender
    return f"{channel}:{native}"


def standing(received: MessageReceived, user: User | None, group: Group | None, *, is_home: bool) -> Role | None:
    """What the writer may; None = nobody we know.

    `user` is who has the sender's id; `is_home`: the chat is the one the main group was registered with (not one that
    joined it), where whoever talks to us alone is the owner.
    """
    if not received.is_sender_proven or received.is_own_reply:
        return None
    if received.from_me:
        return Role.OWNER
    if not received.is_group and (
        channel_of(received.chat) in LOCAL_CHANNELS or (group is not None and group.is_main and is_home)
    ):
        return Role.OWNER
    return user.role if user is not None else None


def is_word(received: MessageReceived) -> bool:
    """Whether a message can be a command to the house: as first written, by its writer; no edit, no forward, nothing
    that we said, nothing that a program says."""
    return not (
        received.is_own_reply or received.is_edit or received.is_forwarded or received.from_bot
        or not received.is_sender_proven
    )


def is_trusted(received: MessageReceived, role: Role | None, *, is_quote_known: bool) -> bool:
    """Whether all of a message is the own word of somebody whom the owner trusts: nothing passed on, no file, no mail
    (where what is new and what is old is a guess), and what it quotes is such a word too (`is_quote_known`)."""
    return (
        role is not None and received.is_sender_proven and channel_of(received.chat) != "email"
        and not (received.is_own_reply or received.is_forwarded or received.from_bot or received.attachments)
        and (received.quote is None or is_quote_known)
    )


def may_command(received: MessageReceived, role: Role | None) -> bool:
    """Whether a command counts: the owner's and an admin's, in any chat that is registered."""
    return is_word(received) and role in (Role.OWNER, Role.ADMIN)


def may_decide(received: MessageReceived, role: Role | None, group: Group | None) -> bool:
    """Whether an answer to what the house asked counts (`/approve`, `/deny`, `/pairing`).

    The owner's alone, said where nobody else listens: in the main chat, or in a direct chat with an owner who was
    paired.
    """
    if not is_word(received) or role is not Role.OWNER:
        return False
    if received.from_me or channel_of(received.chat) in LOCAL_CHANNELS:
        # Known by the place alone, so the place must be the one.
        return group is not None and group.is_main
    return not received.is_group


def entry(received: MessageReceived, role: Role | None, group: Group | None, *, is_personal: bool) -> Entry:
    """What becomes of a message. `group` is the chat's, None = the chat is not registered; `is_personal`: the group
    is the one of people that were let in, so that in its direct chats nobody else may speak."""
    here = channel_of(received.chat)
    if group is not None:
        if received.is_group or here in LOCAL_CHANNELS or role is not None or not is_personal or received.is_own_reply:
            return Entry.SERVE
    elif received.is_group or received.from_me or received.is_own_reply or here in LOCAL_CHANNELS:
        return Entry.IGNORE
    elif role is not None:
        return Entry.JOIN
    # Whom nobody vouches for is never answered (the address may be a third one's), nor is a program.
    return Entry.HOLD if received.is_sender_proven and not received.from_bot else Entry.IGNORE


def gives_codes(channel: str, unknown: Mapping[str, str]) -> bool:
    """Whether unknown senders of a channel are held and given a code; `unknown` is the configuration's word."""
    return unknown.get(channel, "ignore" if channel in OWNERS_MAILBOXES else "pair") == "pair"


# --- who comes in ---


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A sender that the owner lets in. `user` "" = a new one, for an owner the one there is; `folder` "" = main for an
    owner, else a new group of their own."""

    sender: str
    shown_name: str
    role: Role
    user: str = ""
    folder: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """Not let in. `reason` is one line."""

    reason: str


def admit(wanted: Wanted, users: Collection[User], groups: Collection[Group], *, now_ms: int) -> User | Rejected:
    """The user as it will be, or why not. A sender that belongs to a user stays that user's."""
    if not is_sender(wanted.sender):
        return Rejected(f"{wanted.sender[:60]!r} is not a sender: write channel:id, for example telegram:12345")
    known = next((user for user in users if wanted.sender in user.senders), None)
    if known is not None:
        return Rejected(f"{wanted.sender} is {known.name} already: `microclaw users list`")
    if wanted.user and not is_user_name(wanted.user):
        return Rejected(f"{wanted.user[:60]!r} can't be a user: use 1 to {USER_CHARS_MAX} of a-z 0-9 _ -")
    if wanted.folder and not is_folder(wanted.folder):
        return Rejected(f"{wanted.folder[:70]!r} can't be a folder: use letters, digits, _ and -")
    user = next((
        each for each in sorted(users, key=lambda each: (each.added_ms, each.name))
        if (each.name == wanted.user if wanted.user else wanted.role is each.role is Role.OWNER)
    ), None)
    if user is not None:
        if wanted.role not in (Role.MEMBER, user.role):
            return Rejected(f"{user.name} is {user.role}: change that with `microclaw users role {user.name} ROLE`")
        if wanted.folder and wanted.folder != user.folder:
            return Rejected(f"{user.name} is in group {user.folder}; a new user can be in another")
        return msgspec.structs.replace(user, senders=(*user.senders, wanted.sender))
    name = wanted.user or name_for(wanted.shown_name, wanted.sender, {each.name for each in users})
    main = next((group.folder for group in groups if group.is_main), "")
    # Folders that differ only in case are one.
    spelt = {folder_key(group.folder): group.folder for group in groups}
    folder = spelt.get(folder_key(wanted.folder), wanted.folder) or (main if wanted.role is Role.OWNER else "")
    if not folder:
        taken = [*(group.folder for group in groups), *(each.folder for each in users)]
        folder = folder_for(channel_of(wanted.sender), name, taken)
    if folder == main and wanted.role is not Role.OWNER:
        return Rejected(f"the main group ({main}) is the owner's alone")
    return User(name=name, role=wanted.role, folder=folder, senders=(wanted.sender,), added_ms=now_ms)


def change_role(user: User, role: Role, groups: Collection[Group]) -> User | Rejected:
    """The user with another role, or why not."""
    is_in_main = any(group.is_main and group.folder == user.folder for group in groups)
    if is_in_main and role is not Role.OWNER:
        return Rejected(
            f"{user.name}'s chats belong to the main group, which is the owner's alone: "
            f"`microclaw users rm {user.name}`, then let them in anew"
        )
    return msgspec.structs.replace(user, role=role)


# --- names ---


def name_for(shown: str, sender: str, taken: Collection[str]) -> str:
    """A free user name, made of a shown name (or of the sender's id where nothing of it is left)."""
    return _free(_slug(shown)[:USER_CHARS_MAX - 4] or _slug(sender)[:USER_CHARS_MAX - 4] or "user", taken)


def folder_for(channel: str, user: str, taken: Collection[str]) -> str:
    """A free folder for a person's own group, as `telegram-ann`. `taken` holds folders in any case."""
    folder = f"{channel}-{user}"[:FOLDER_CHARS_MAX - 4]
    return _free(folder, {folder_key(each) for each in taken})


def shown(name: str) -> str:
    """What a stranger calls themselves, as part of the house's own words: one short line, nothing invisible."""
    visible = "".join(char if char.isprintable() else " " for char in unicodedata.normalize("NFC", name))
    line = " ".join(visible.split())
    return line if len(line) <= SHOWN_NAME_CHARS else line[:SHOWN_NAME_CHARS - 1] + "…"


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _free(wanted: str, taken: Collection[str]) -> str:
    number, found = 1, wanted
    while found in taken:
        number += 1
        found = f"{wanted}-{number}"
    return found
