"""`microclaw memory list|show|allow|refuse|forget`: what agents remember, and whose words that is."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from microclaw.cli.asking import asked_of, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.numbers import whole
from microclaw.cli.terminal import one_line
from microclaw.core.approvals import shown_code
from microclaw.core.errors import UsageError
from microclaw.core.memory_requests import (
    SERVICE,
    DecideMemory,
    ForgetMemory,
    Memories,
    MemoryAsked,
    MemoryFile,
    MemoryFileAsked,
    MemoryForgotten,
)
from microclaw.core.requests import Done

_SOURCE = "a source from `memory list`: telegram:12345, chat:telegram:-100, web:example.org, task:ID, hand, before"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="the memory files, and how many lines came from which source")
    listed.add_argument("--held", action="store_true", help="the changes that wait for your yes")
    show = actions.add_parser("show", help="a memory file, each line with its source")
    show.add_argument("file", metavar="FILE", nargs="?", default="", help="a file from `memory list`: main/SOUL.md")
    show.add_argument("--held", type=whole(1), default=0, metavar="N", help="instead: what change N would do")
    for name, what in (("allow", "put in"), ("refuse", "drop")):
        decide = actions.add_parser(name, help=f"{what} a change that waits")
        decide.add_argument("number", type=whole(1), metavar="N", help="a number from `memory list --held`")
    forget = actions.add_parser("forget", help="take out of all memory what came from one source")
    forget.add_argument("--source", required=True, metavar="SOURCE", help=_SOURCE)


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    match options.action:
        case "list":
            return _held(context) if options.held else _list(context)
        case "show":
            return _show(context, options.file, options.held)
        case "forget":
            return _forget(context, options.source)
    asked_of(context, SERVICE, DecideMemory(number=options.number, allow=options.action == "allow"), Done)
    if context.json:
        context.dump({"number": options.number, "state": "in" if options.action == "allow" else "refused"})
    else:
        context.say(f"change {options.number} is {'put in' if options.action == 'allow' else 'dropped'}")
    return 0


def _list(context: Context) -> int:
    found = asked_of(context, SERVICE, MemoryAsked(), Memories)
    if context.json:
        context.dump(rows(found.files))
        return 0
    if found.files:
        context.table(
            ("FILE", "SIZE", "LINES BY SOURCE"),
            [
                (
                    row.where, f"{row.size_bytes / 1024:.1f} KiB",
                    ", ".join(f"{one_line(name)} {count}" for name, count in sorted(
                        row.lines.items(), key=lambda item: (-item[1], item[0])
                    )) or "-",
                )
                for row in found.files
            ],
        )
    else:
        context.say("nothing is remembered yet")
    if found.held:
        context.say(f"{len(found.held)} changes wait for your yes: microclaw memory list --held")
    return 0


def _held(context: Context) -> int:
    held = asked_of(context, SERVICE, MemoryAsked(), Memories).held
    if context.json:
        context.dump(rows(held))
    elif not held:
        context.say("no change waits")
    else:
        now = time.time()
        context.table(
            ("NUMBER", "FILE", "MADE", "ASKED", "WORDS OF"),
            [
                (
                    str(row.number), row.where, f"{duration(now - row.made_ms / 1000)} ago",
                    "not answered" if row.is_expired else shown_code(row.code) if row.code else "not yet",
                    ", ".join(map(one_line, row.sources)),
                )
                for row in held
            ],
        )
    return 0


def _show(context: Context, where: str, held: int) -> int:
    if bool(where) == bool(held):
        raise UsageError("name either a file (`microclaw memory list`) or a change (--held N)")
    found = asked_of(context, SERVICE, MemoryFileAsked(where=where, held=held), MemoryFile)
    if context.json:
        context.dump({
            "where": found.where,
            "lines": [{"text": line.text, "change": line.change} for line in found.lines],
            "changes": rows(found.changes),
        })
        return 0
    if held:
        (change,) = found.changes
        print(context.paint(f"{found.where}, words of {', '.join(map(one_line, change.sources))}:", "grey"))
    said = -2
    for line in found.lines:
        if not held and line.change != said:
            said = line.change
            print(context.paint(f"--- {_whose(found, line.change)}", "grey"))
        print(one_line(line.text))
    return 0


def _whose(found: MemoryFile, place: int) -> str:
    if place < 0:
        return "from nobody known"
    change = found.changes[place]
    made = datetime.fromtimestamp(change.made_ms / 1000).astimezone()
    run = f", run {change.run_id}" if change.run_id else ""
    return f"{made:%Y-%m-%d %H:%M} from {', '.join(map(one_line, change.sources))}{run}"


def _forget(context: Context, source: str) -> int:
    gone = asked_of(context, SERVICE, ForgetMemory(source=source), MemoryForgotten)
    if context.json:
        context.dump({"source": source, "lines": gone.lines, "held": gone.held})
        return 0
    for where, lines in sorted(gone.lines.items()):
        context.say(f"{where}: {lines} lines are gone")
    if gone.held:
        context.say(f"{gone.held} changes that waited are dropped")
    if not gone.lines and not gone.held:
        context.say(f"nothing that is remembered came from {source}")
    else:
        context.say("what is still in a conversation is forgotten with /new in its chat")
    return 0
