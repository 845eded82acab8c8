"""`microclaw usage`: what the model calls cost, in tokens and, where prices are known, in money."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from microclaw.cli.asking import ask
from microclaw.cli.context import Context
from microclaw.cli.numbers import whole
from microclaw.core.budget import money
from microclaw.core.requests import UsageAsked, UsageRow, UsageRows

_COUNTS = (
    "calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "unknown_calls",
)
#: How far back one may look: ten years.
DAYS_MAX = 3660


def arguments(parser: argparse.ArgumentParser) -> None:
    """`--by`, `--days`."""
    parser.add_argument("--by", choices=("group", "day", "model"), default="day", help="what to add up by")
    parser.add_argument("--days", type=whole(1, DAYS_MAX), metavar="N", default=30, help="how far back (default 30)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Print it. Raises MicroclawError."""
    # A day more than asked for: days begin at midnight in the owner's time zone, which only egress knows.
    since = (datetime.now(UTC) - timedelta(days=options.days)).date().isoformat()
    answer = ask(context, UsageAsked(since_day=since), UsageRows)
    summed = summed_by(answer.rows, options.by)
    costs = costs_by(answer.rows, options.by)
    if context.json:
        context.dump([
            {options.by: key, **counts, "cost_micros": costs[key][0], "unpriced_tokens": costs[key][1],
             "currency": answer.currency}
            for key, counts in summed
        ])
    elif not summed:
        context.say("no model was called in that time")
    else:
        context.table(
            (options.by.upper(), "CALLS", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "UNKNOWN", "COST"),
            [
                (key, *(f"{counts[name]:,}" for name in _COUNTS), _cost(*costs[key], answer.currency))
                for key, counts in summed
            ],
        )
    return 0


def costs_by(found: Sequence[UsageRow], by: str) -> dict[str, tuple[int, int]]:
    """By `group`, `day` or `model`: what it cost, in millionths, and the tokens whose price is not known."""
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in found:
        micros, unpriced = sums[getattr(row, by)]
        if row.cost_micros is None:
            unpriced += row.input_tokens + row.output_tokens
        sums[getattr(row, by)] = (micros + (row.cost_micros or 0), unpriced)
    return sums


def _cost(micros: int, unpriced_tokens: int, currency: str) -> str:
    if not unpriced_tokens:
        return money(micros, currency)
    return f"{money(micros, currency)} + unknown" if micros else "unknown"


def summed_by(found: Sequence[UsageRow], by: str) -> list[tuple[str, dict[str, int]]]:
    """The counts added up by `group`, `day` or `model`: days from the newest on, others from the dearest on."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
    for row in found:
        for name in _COUNTS:
            sums[getattr(row, by)][name] += getattr(row, name)
    if by == "day":
        return sorted(sums.items(), reverse=True)
    return sorted(sums.items(), key=lambda item: (-item[1]["input_tokens"] - item[1]["output_tokens"], item[0]))
