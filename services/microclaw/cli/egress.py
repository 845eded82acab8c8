"""`microclaw egress list|allow|deny|forget|explain`: where sandboxes may go."""

from __future__ import annotations

import argparse

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context
from microclaw.core.requests import (
    ChangeEgressRule,
    Done,
    EgressExplained,
    EgressRules,
    EgressRulesAsked,
    ExplainEgress,
)

_ACTIONS = {
    "allow": "let agents reach a host",
    "deny": "keep agents from a host, whatever else allows it",
    "forget": "take back an allow or deny of yours",
    "explain": "would it be reached now, and why (not)",
}
_DONE = {"allow": "may be reached", "deny": "is denied", "forget": "has no rule of yours any more"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list`, and the others with `HOST[:PORT] [--group G]`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="the rules in force")
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("host", metavar="HOST[:PORT]", help="a name, or *.example.org; port 443 if left out")
        action.add_argument("--group", default="", help="this group only (default: all)")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. `explain` of a host that is refused exits with 4. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if options.action == "explain":
        return _explain(context, options.host, options.group)
    ask(context, ChangeEgressRule(host=options.host, verdict=options.action, group=options.group), Done)
    whose = f"for group {options.group}" if options.group else "for all groups"
    context.say(f"{options.host} {_DONE[options.action]} {whose}, from now on")
    return 0


def _explain(context: Context, host: str, group: str) -> int:
    found = ask(context, ExplainEgress(host=host, group=group), EgressExplained)
    if context.json:
        context.dump(rows([found])[0])
    else:
        verdict = context.paint("allowed", "green") if found.allowed else context.paint("refused", "red")
        print(f"{verdict}: {found.reason}")
        if found.addresses:
            print(f"addresses: {', '.join(found.addresses)}")
    return 0 if found.allowed else 4


def _list(context: Context) -> int:
    found = ask(context, EgressRulesAsked(), EgressRules).rules
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say("agents reach nothing but the model; `microclaw egress allow HOST` lets them reach a host")
    else:
        context.table(
            ("VERDICT", "HOST", "PORT", "GROUP", "FROM"),
            [(row.verdict, row.host, str(row.port), row.group or "all", row.origin) for row in found],
            ["green" if row.verdict == "allow" else "red" for row in found],
        )
    return 0
