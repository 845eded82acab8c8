"""`microclaw users list|add|role|rm`: the people your assistant knows."""

from __future__ import annotations

import argparse
import uuid
from typing import Literal, cast

from microclaw.cli.asking import asked_of, rows
from microclaw.cli.context import Context
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import UsageError
from microclaw.core.people import Role
from microclaw.core.people_requests import SERVICE, ChangeUser, UserAnswer, Users, UsersAsked


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="who is known, and what they may")
    roles = [role.value for role in Role]
    add = actions.add_parser("add", help="know somebody by their id, without a code")
    add.add_argument("name", metavar="NAME")
    add.add_argument("sender", metavar="CHANNEL:ID", help="for example email:ann@example.org")
    add.add_argument("--role", choices=roles, default=Role.MEMBER.value, help="default: member")
    add.add_argument("--folder", default="", metavar="NAME", help="their group's folder (default: a new one)")
    role = actions.add_parser("role", help="owner: everything; admin: also commands in their groups; member: talk")
    role.add_argument("name", metavar="NAME")
    role.add_argument("role", choices=roles)
    actions.add_parser("rm", help="forget somebody: a stranger again").add_argument("name", metavar="NAME")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if not options.name.strip():
        raise UsageError("a user needs a name: microclaw users add NAME CHANNEL:ID")
    user = asked_of(context, SERVICE, ChangeUser(
        command_id=uuid.uuid4().hex, action=cast(Literal["add", "role", "rm"], options.action), name=options.name,
        role=Role(getattr(options, "role", Role.MEMBER)), sender=getattr(options, "sender", ""),
        folder=getattr(options, "folder", ""),
    ), UserAnswer).user
    if context.json:
        context.dump(rows([user])[0])
    elif options.action == "rm":
        context.say(f"{user.name} is forgotten: {', '.join(user.senders)} are strangers again")
    else:
        context.say(f"{user.name} is {user.role}, in group {user.folder}: {', '.join(user.senders)}")
        channel = getattr(options, "sender", "").partition(":")[0]
        if channel and channel not in CONNECTORS:
            known = ", ".join(CONNECTORS)
            context.progress(f"note: no connector of the house is called {channel!r}; there are: {known}")
    return 0


def _list(context: Context) -> int:
    users = asked_of(context, SERVICE, UsersAsked(), Users).users
    if context.json:
        context.dump(rows(users))
        return 0
    context.table(
        ("USER", "ROLE", "GROUP", "SENDERS"),
        [
            ("(this machine)", "owner", "main", "console"),
            *((user.name, user.role.value, user.folder, ", ".join(user.senders)) for user in users),
        ],
    )
    return 0
