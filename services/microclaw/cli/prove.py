"""`microclaw prove`: harm a throw-away copy of the mesh at random, and account for every message."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
from typing import TYPE_CHECKING

from microclaw.cli.context import Context, duration
from microclaw.cli.extras import lock_of
from microclaw.cli.numbers import seconds, whole
from microclaw.core.errors import UnhealthyError

if TYPE_CHECKING:
    from microclaw.core.home import Home
    from microclaw.prove.trial import Result

ROUNDS = 20
ROUNDS_MAX = 100_000
#: Lines of each list in the report.
SHOWN_MAX = 20

_DESCRIPTION = """harm a throw-away copy at random, and account for every message: starts a second mesh in a home of
its own (your settings, a scripted model, bubblewrap; your data is not touched), lets messages flow in several groups,
and does one act of harm a round: kill -9, stop and continue, restart, kill a worker, kill supervisord, the broker
killed at a chosen commit, disk full, power cut, clock set. Ends with an account of every message: it must be answered
once and in order, reminders must come once. Exit code 1: one was not."""
_EPILOG = """The same seed gives the same acts in the same order, the same pauses and the same messages in each group.
At which instant of the mesh's work an act falls is up to the machine, so a rare fault may need a seed to be repeated.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and which seed."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "--rounds", type=whole(1, ROUNDS_MAX), default=ROUNDS, metavar="N", help=f"acts of harm (default {ROUNDS})"
    )
    parser.add_argument("--seed", type=whole(0), metavar="S", help="repeat a trial (default: a new one)")
    parser.add_argument(
        "--patience", type=seconds, default=120.0, metavar="S",
        help="an answer is lost if nothing at all comes for so long while it is waited for (default 120 s)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the home even if all went well")


def run(context: Context, options: argparse.Namespace) -> int:
    """Do it. :raises UnhealthyError: it can't be done here."""
    if sys.platform != "linux":
        raise UnhealthyError("prove needs Linux: it runs the agents in bubblewrap and finds processes in /proc")
    from microclaw.prove import throw_away
    from microclaw.prove.mesh_run import MeshRun
    from microclaw.prove.plan import plan
    from microclaw.prove.trial import Trial

    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    skipped = _skipped()
    settings = context.settings
    env, home = throw_away.make(settings, context.env)
    kept = True
    try:
        context.progress(f"seed {seed}, {options.rounds} rounds, in {home.state}")
        for kind, reason in skipped.items():
            context.progress(f"{kind} is left out: {reason}")
        show = _Progress(context)
        rounds = plan(seed, options.rounds, without=skipped)
        trial = Trial(MeshRun(env), seed, rounds, show.line, patience_s=options.patience)
        try:
            result = asyncio.run(trial.run())
        except KeyboardInterrupt:
            kept = options.keep
            raise
        except UnhealthyError as error:
            raise UnhealthyError(f"{error}. Logs: {home.logs}") from error
        finally:
            show.end()
        kept = options.keep or not result.well
    finally:
        if not kept:
            shutil.rmtree(home.state, ignore_errors=True)
    _report(context, result, seed, skipped)
    if kept:
        context.progress(f"kept: {home.state} (logs: {home.logs})")
    if not result.well:
        context.progress(f"repeat it: microclaw prove --rounds {options.rounds} --seed {seed}")
    if context.json:
        _print_json(result, seed, skipped, home, kept=kept)
    return 0 if result.well else 1


def _skipped() -> dict[str, str]:
    """Kinds of acts that can't be done here, and why."""
    from importlib.util import find_spec

    if find_spec("apsw") is None:
        by_hand = f"{sys.executable} -m pip install --require-hashes -r {lock_of('prove')}"
        return {"power-cut": f"apsw is not installed: {by_hand}"}
    return {}


class _Progress:
    """A line a round; on a terminal one line that changes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._in_place = context.in_place

    def line(self, text: str) -> None:
        if self._in_place:
            print(f"\r\033[K{text[:shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
        elif not text.endswith("…"):
            self._context.progress(text)

    def end(self) -> None:
        if self._in_place:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _report(context: Context, result: Result, seed: int, skipped: dict[str, str]) -> None:
    if context.json:
        return
    whole, messages = result.account, result.messages
    acts = ", ".join(f"{kind} {count}" for kind, count in sorted(result.acts.items()))
    recoveries = sorted(result.recoveries_s)
    median_s = recoveries[len(recoveries) // 2] if recoveries else 0.0
    rows = [
        ("accepted", f"{messages.accepted} messages, {result.reminders.accepted} reminders"),
        ("answered", f"{messages.answered} messages, {result.reminders.answered} reminders"),
        ("lost", str(whole.lost)), ("doubled", str(whole.doubled)), ("reordered", str(whole.reordered)),
        ("longest recovery", f"{result.recovery_max_s:.1f} s (half of them within {median_s:.1f} s)"),
        ("slowest answer", f"{result.slowest_answer_s:.1f} s ({result.slowest_answer})"),
        ("acts", f"{result.rounds} rounds: {acts}"),
        *(("left out", f"{kind}: {reason}") for kind, reason in skipped.items()),
        *(("not done", f"{what} ({count})") for what, count in result.not_done.most_common(SHOWN_MAX)),
        ("notices", str(len(result.notices))),
        ("took", duration(result.took_s)),
        ("seed", str(seed)),
    ]
    context.table(("WHAT", "VALUE"), rows)
    for fault in result.faults[:SHOWN_MAX]:
        print(context.paint(fault, "red"))
    if not result.well:
        for text, count in result.errors.most_common(SHOWN_MAX):
            print(f"logged {count} times: {text}")
    verdict = "all is well" if result.well else "NOT well"
    print(context.paint(verdict, "green" if result.well else "red"))


def _print_json(result: Result, seed: int, skipped: dict[str, str], home: Home, *, kept: bool) -> None:
    import json

    # One line, also on a terminal: the last one of the output.
    print(json.dumps({
        "accepted": result.messages.accepted, "answered": result.messages.answered, "lost": result.account.lost,
        "doubled": result.account.doubled, "reordered": result.account.reordered, "strange": result.account.strange,
        "recovery_max_s": round(result.recovery_max_s, 3), "slowest_answer_s": round(result.slowest_answer_s, 3),
        "reminders": result.reminders.answered, "notices": len(result.notices), "well": result.well, "seed": seed,
        "rounds": result.rounds, "acts": dict(result.acts), "skipped": skipped, "not_done": dict(result.not_done),
        "faults": result.faults[:SHOWN_MAX], "took_s": round(result.took_s, 1),
        "home": str(home.state) if kept else None,
    }, ensure_ascii=False), flush=True)
