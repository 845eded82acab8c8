"""`microclaw sessions list|show`: the agents' conversations."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
from microclaw.core.requests import Session, SessionAsked, Sessions, SessionsAsked


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all conversations")
    show = actions.add_parser("show", help="the last turns of one")
    show.add_argument("name", metavar="NAME", help="a name from `sessions list`")
    show.add_argument("--limit", type=int, default=10, metavar="N", help="so many turns at most (default 10)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    return _list(context) if options.action == "list" else _show(context, options.name, options.limit)


def _list(context: Context) -> int:
    found = ask(context, SessionsAsked(), Sessions).sessions
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say("no conversation yet: microclaw chat")
    else:
        now = time.time()
        context.table(
            ("NAME", "STATE", "CHANGED", "SIZE"),
            [
                (
                    row.name, "live" if row.is_live else "at rest", f"{duration(now - row.changed_ms / 1000)} ago",
                    f"{max(1, row.size_bytes >> 10)} KiB",
                )
                for row in found
            ],
            ["green" if row.is_live else "grey" for row in found],
        )
    return 0


def _show(context: Context, name: str, limit: int) -> int:
    found = ask(context, SessionAsked(name=name, limit=limit), Session).turns
    if context.json:
        context.dump(rows(found))
        return 0
    for turn in found:
        began = datetime.fromtimestamp(turn.began_ms / 1000).astimezone()
        print(context.paint(f"--- {began:%Y-%m-%d %H:%M:%S}  run {turn.run_id}", "grey"))
        print(_plain(turn.prompt))
        if turn.tools:
            print(context.paint(f"[tools: {', '.join(map(_plain, turn.tools))}]", "yellow"))
        print(context.paint(_plain(turn.answer or turn.error or "(under way)"), "red" if turn.error else "green"))
    if not found:
        context.say(f"{name} has no turn yet")
    return 0


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
