"""`microclaw pairing list|approve|deny|revoke`: who wrote to the assistant and is not known yet."""

from __future__ import annotations

import argparse
import time
import uuid
from typing import Literal, cast

from microclaw.cli.asking import asked_of, rows
from microclaw.cli.context import Context, duration
from microclaw.core.approvals import shown_code
from microclaw.core.people import Role
from microclaw.core.people_requests import SERVICE, AnswerPairing, Paired, PairingRow, Pairings, PairingsAsked

_COLOURS = {"pending": "yellow", "approved": "green", "denied": "red"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list [--all]`, `approve|deny|revoke CHANNEL CODE`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="codes that wait for you")
    listed.add_argument("channel", metavar="CHANNEL", nargs="?", help="of this channel alone")
    listed.add_argument("--all", action="store_true", help="also what became of the others")
    approve = actions.add_parser("approve", help="let them in: what they wrote is handed over")
    role = approve.add_mutually_exclusive_group()
    role.add_argument("--owner", action="store_true", help="it is you: may do everything, in the main group")
    role.add_argument("--admin", action="store_true", help="may also use commands (/stop, /new, …) in their groups")
    approve.add_argument("--user", default="", metavar="NAME", help="which user it is: a new one, or one that is known")
    approve.add_argument("--folder", default="", metavar="NAME", help="their group's folder (default: a new one)")
    deny = actions.add_parser("deny", help="keep them out: what they wrote is dropped, they are not answered again")
    revoke = actions.add_parser("revoke", help="take either back: they are a stranger again")
    for action in (approve, deny, revoke):
        action.add_argument("channel", metavar="CHANNEL", help="as `pairing list` shows it")
        action.add_argument("code", metavar="CODE")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context, options)
    paired = asked_of(context, SERVICE, AnswerPairing(
        command_id=uuid.uuid4().hex, channel=options.channel, code=options.code,
        answer=cast(Literal["approve", "deny", "revoke"], options.action), role=_role(options),
        user=getattr(options, "user", ""), folder=getattr(options, "folder", ""),
    ), Paired)
    if context.json:
        context.dump(rows([paired])[0])
        return 0
    who = f"{paired.row.sender_name} ({paired.row.sender})"
    if paired.user is not None:
        held = f"; {paired.handed_over} held messages are handed over" if paired.handed_over else ""
        context.say(f"{who} is let in as {paired.user.name}, {paired.user.role}, in group {paired.user.folder}{held}")
        if paired.user.role is Role.MEMBER:
            context.say(f"(is it you? microclaw pairing revoke {options.channel} {options.code}, then approve --owner)")
    elif options.action == "deny":
        context.say(f"{who} is kept out")
    else:
        context.say(f"{who} is a stranger again")
    return 0


def _role(options: argparse.Namespace) -> Role:
    if getattr(options, "owner", False):
        return Role.OWNER
    return Role.ADMIN if getattr(options, "admin", False) else Role.MEMBER


def _list(context: Context, options: argparse.Namespace) -> int:
    found = asked_of(context, SERVICE, PairingsAsked(all=options.all), Pairings).rows
    shown = [row for row in found if options.channel in (None, row.channel)]
    if context.json:
        context.dump(rows(shown))
    elif not shown:
        context.say("nobody waits to be let in; whoever is not known and writes to the assistant gets a code")
    else:
        context.table(
            ("CODE", "CHANNEL", "WHO", "SENDER", "STATE", "SINCE", "HELD"), [_cells(row) for row in shown],
            [_COLOURS.get(row.state, "grey") for row in shown],
        )
    return 0


def _cells(row: PairingRow) -> tuple[str, ...]:
    since = duration(time.time() - row.asked_ms / 1000)
    return shown_code(row.code), row.channel, row.sender_name, row.sender, row.state, since, str(row.held)
