"""What the owner asks of the router about people and groups: `microclaw pairing|users|groups …`."""

from __future__ import annotations

from typing import Literal

import msgspec

from microclaw.core.people import Role, User
from microclaw.core.requests import Request

#: Who answers all of these.
SERVICE = "router"


class PairingsAsked(Request, frozen=True, kw_only=True, tag="pairing.list"):
    """The codes that wait, and with `all` what became of the others. Answer: Pairings."""

    all: bool = False


class PairingRow(msgspec.Struct, frozen=True, kw_only=True):
    channel: str
    code: str
    #: The full id, `telegram:12345`.
    sender: str
    sender_name: str
    chat: str
    state: Literal["pending", "approved", "denied", "revoked", "expired"]
    asked_ms: int
    expires_ms: int
    #: Messages of this sender that wait.
    held: int = 0


class Pairings(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pairing.list.answer"):
    rows: tuple[PairingRow, ...]


class AnswerPairing(Request, frozen=True, kw_only=True, tag="pairing.answer"):
    """Let a sender in, keep them out, or take either back. Answer: Paired or Failed.

    `role` owner can be given at the command line and in the console alone. `user` "" = a new user, for an owner the
    one there is. `folder` "" = main for an owner, else a new group of their own.
    """

    command_id: str
    channel: str
    code: str
    answer: Literal["approve", "deny", "revoke"]
    role: Role = Role.MEMBER
    user: str = ""
    folder: str = ""


class Paired(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pairing.answer.answer"):
    row: PairingRow
    #: Who the sender is now; None = nobody we know.
    user: User | None = None
    #: Held messages that were handed over.
    handed_over: int = 0


class UsersAsked(Request, frozen=True, kw_only=True, tag="users.list"):
    """The people we know. Answer: Users."""


class Users(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="users.list.answer"):
    users: tuple[User, ...]


class ChangeUser(Request, frozen=True, kw_only=True, tag="users.change"):
    """From the command line: know a sender as a user (`add`), give a user another role, or forget a user (`rm`: all
    their senders are strangers again). Answer: UserAnswer or Failed."""

    command_id: str
    action: Literal["add", "role", "rm"]
    name: str
    role: Role = Role.MEMBER
    #: To `add`.
    sender: str = ""
    #: To `add` a new user: "" = main for an owner, else a new group of their own.
    folder: str = ""


class UserAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="users.change.answer"):
    user: User


class RemoveGroup(Request, frozen=True, kw_only=True, tag="groups.rm"):
    """From the command line: the chat is no group any more; its folder stays. Answer: Done or Failed."""

    command_id: str
    #: A folder or a chat's address.
    group: str


class DeliveriesAsked(Request, frozen=True, kw_only=True, tag="deliveries.list"):
    """Replies that did not arrive, or may not have, the newest first. Answer: Deliveries."""

    limit: int = 20


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    reply_id: str
    chat: str
    #: Group of the chat, "" = none.
    group: str
    state: Literal["failed", "uncertain", "expired"]
    error: str
    done_ms: int


class Deliveries(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="deliveries.list.answer"):
    rows: tuple[DeliveryRow, ...]
