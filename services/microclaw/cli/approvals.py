"""`microclaw approvals list|approve|deny|grants|revoke`: what needs your yes, and what has it."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Literal, cast

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context
from microclaw.core.approvals import action_hash, shown_code
from microclaw.core.requests import AnswerApproval, ApprovalRow, Approvals, ApprovalsAsked, Done

_COLOURS = {"pending": "yellow", "always": "green", "once": "green", "denied": "red"}
_SAID = {
    "once": "may be done, once", "always": "may be done from now on", "deny": "is denied",
    "revoke": "does not hold any more",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list [--all]`, `approve CODE [once|always]`, `deny CODE`, `grants`, `revoke CODE`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="what waits for you")
    listed.add_argument("--all", action="store_true", help="also what is over")
    approve = actions.add_parser("approve", help="yes")
    approve.add_argument("code", metavar="CODE")
    approve.add_argument("how", choices=("once", "always"), nargs="?", default="once", help="default: once")
    actions.add_parser("deny", help="no").add_argument("code", metavar="CODE")
    actions.add_parser("grants", help="what you said yes to and still holds")
    actions.add_parser("revoke", help="take back what always holds").add_argument("code", metavar="CODE")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context, None if options.all else ("pending",), "nothing waits for your yes")
    if options.action == "grants":
        return _list(context, ("always", "once"), "nothing has your yes")
    answer = cast(
        Literal["once", "always", "deny", "revoke"], options.how if options.action == "approve" else options.action
    )
    ask(context, AnswerApproval(code=options.code, answer=answer), Done)
    context.say(f"{options.code} {_SAID[answer]}")
    if context.json:
        context.dump({"code": options.code, "answer": answer})
    return 0


def _list(context: Context, states: tuple[str, ...] | None, nothing: str) -> int:
    """Those in `states`; None = all that is remembered."""
    found = [
        row for row in ask(context, ApprovalsAsked(all=states is None), Approvals).rows
        if states is None or row.state in states
    ]
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say(nothing)
    for row in found if not context.json else ():
        _print(context, row)
    return 0


def _print(context: Context, row: ApprovalRow) -> None:
    action = row.action
    until = datetime.fromtimestamp(row.expires_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")
    state = context.paint(row.state, _COLOURS.get(row.state, "grey"))
    ends = f"until {until}" if row.state in ("pending", "once") else row.answered_by
    print(f"{shown_code(row.code)}  {state}  {action.kind} {action.target}  group {action.group}  {ends}")
    for line in action.detail.splitlines():
        # A text of an agent: what would steer the terminal is shown, not obeyed.
        print(f"    > {line if line.isprintable() else ascii(line)}")
    print(context.paint(f"    action {action_hash(action).hex()[:32]}", "grey"))
