"""`microclaw budget show|set|forget`: what the model may cost in a day."""

from __future__ import annotations

import argparse

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context
from microclaw.cli.groups import note_unknown
from microclaw.cli.numbers import whole
from microclaw.core.budget import money
from microclaw.core.requests import BudgetAsked, Budgets, Done, SetBudget


def arguments(parser: argparse.ArgumentParser) -> None:
    """`show`; `set [--tokens N] [--money M] [--group G]`; `forget [--group G]`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("show", help="the limits, and what of them is used today")
    change = actions.add_parser("set", help="the most of a day, from now on; 0 = no limit")
    change.add_argument("--tokens", type=whole(0), metavar="N", help="sent and answered, in a day")
    change.add_argument("--money", type=float, metavar="M", help="in the configured currency, in a day")
    forget = actions.add_parser("forget", help="take back a limit of yours: the configuration's holds again")
    for action in (change, forget):
        action.add_argument("--group", default="", help="this group (default: all groups together)")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "set":
        ask(context, SetBudget(
            group=options.group, tokens_per_day=options.tokens, money_per_day=options.money
        ), Done)
    elif options.action == "forget":
        ask(context, SetBudget(group=options.group, forget=True), Done)
    if options.action == "set":
        note_unknown(context, [options.group])
    found = ask(context, BudgetAsked(), Budgets)
    if context.json:
        context.dump({"day": found.day, "currency": found.currency, "budgets": rows(found.rows)})
        return 0
    context.table(
        ("GROUP", "TOKENS TODAY", "OF", "COST TODAY", "OF", "SET BY"),
        [
            (
                row.group or "all", f"{row.spent_tokens:,}", f"{row.tokens_per_day:,}" if row.tokens_per_day else "-",
                money(row.spent_micros, found.currency),
                money(row.money_per_day_micros, found.currency) if row.money_per_day_micros else "-", row.origin,
            )
            for row in found.rows
        ],
    )
    return 0
