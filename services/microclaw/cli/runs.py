"""`microclaw runs list`."""

from __future__ import annotations

import argparse
import time

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.numbers import whole
from microclaw.core.requests import Runs, RunsAsked


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what runs, waits and lately failed")
    listing.add_argument("--limit", type=whole(1), default=50, metavar="N", help="so many of each at most (default 50)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Print them. Raises MicroclawError."""
    found = ask(context, RunsAsked(limit=options.limit), Runs)
    kinds = {"running": found.running, "waiting": found.waiting, "failed": found.failed}
    if context.json:
        context.dump({kind: rows(some) for kind, some in kinds.items()})
        return 0
    now = time.time()
    shown = [
        (kind, row.group, row.run_id, str(row.attempt), duration(now - row.since_ms / 1000), row.error or "-")
        for kind, some in kinds.items()
        for row in some
    ]
    if not shown:
        context.say("nothing runs, waits or failed lately")
        return 0
    colours = {"running": "green", "waiting": "yellow", "failed": "red"}
    context.table(
        ("STATE", "GROUP", "RUN", "TRY", "SINCE", "ERROR"), shown, [colours[kind] for kind, *_ in shown]
    )
    return 0
