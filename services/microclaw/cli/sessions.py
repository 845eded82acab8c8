"""`microclaw sessions list|show|export|fork`: the agents' conversations."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from microclaw.cli.asking import ask, asked, connected, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.numbers import whole
from microclaw.cli.terminal import printable
from microclaw.core.errors import UsageError
from microclaw.core.requests import (
    Done,
    ForkSession,
    Session,
    SessionAsked,
    Sessions,
    SessionsAsked,
    SessionTurn,
)

#: Turns asked for at a time.
EXPORT_PART = 50


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all conversations")
    show = actions.add_parser("show", help="the last turns of one")
    show.add_argument("name", metavar="NAME", help="a name from `sessions list`")
    show.add_argument("--limit", type=whole(1), default=10, metavar="N", help="so many turns at most (default 10)")
    export = actions.add_parser("export", help="all of one, as Markdown (--json: as JSON)")
    export.add_argument("name", metavar="NAME", help="a name from `sessions list`")
    export.add_argument("--output", metavar="FILE", type=Path, help="into this new file; else it is printed")
    fork = actions.add_parser("fork", help="have a group go on with a copy of a conversation")
    fork.add_argument("name", metavar="NAME", help="a name from `sessions list`")
    fork.add_argument("group", metavar="GROUP", help="its own conversation is put aside")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    match options.action:
        case "list":
            return _list(context)
        case "export":
            return _export(context, options.name, options.output)
        case "fork":
            return _fork(context, options.name, options.group)
    return _show(context, options.name, options.limit)


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
        print(printable(turn.prompt))
        if turn.tools:
            print(context.paint(f"[tools: {', '.join(map(printable, turn.tools))}]", "yellow"))
        print(context.paint(printable(turn.answer or turn.error or "(under way)"), "red" if turn.error else "green"))
    if not found:
        context.say(f"{name} has no turn yet")
    return 0


def _export(context: Context, name: str, output: Path | None) -> int:
    from tzlocal import get_localzone_name

    from microclaw.agent.archive import page

    async def every() -> list[SessionTurn]:
        turns: list[SessionTurn] = []
        async with connected(context) as bus:
            while found := (
                await asked(bus, SessionAsked(name=name, limit=EXPORT_PART, skip=len(turns)), Session)
            ).turns:
                turns[:0] = found
        return turns

    turns = asyncio.run(every())
    if context.json:
        text = json.dumps(rows(tuple(turns)), ensure_ascii=False, indent=2) + "\n"
    else:
        text = page(turns, assistant=context.settings.assistant.name, zone=ZoneInfo(get_localzone_name()))
    if output is None:
        print(text if context.json else printable(text), end="")
        return 0
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}): give the name of a new file") from error
    output.chmod(0o600)
    context.say(f"{len(turns)} turns are in {output}")
    return 0


def _fork(context: Context, name: str, group: str) -> int:
    ask(context, ForkSession(name=name, group=group), Done)
    if context.json:
        context.dump({"name": name, "group": group})
    else:
        context.say(f"{group} goes on with a copy of {name}; what it had is put aside")
    return 0
