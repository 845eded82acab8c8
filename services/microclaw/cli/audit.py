"""`microclaw audit tail|verify|export`: the log of every decision."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime

from microclaw.bus.api import Bus
from microclaw.cli.asking import ask, asked, connected, rows
from microclaw.cli.context import Context
from microclaw.cli.numbers import whole
from microclaw.core.audit import Entry
from microclaw.core.errors import UnhealthyError
from microclaw.core.requests import AuditAsked, AuditEntries, AuditVerified, VerifyAudit

#: Entries asked for at once.
PAGE_ROWS = 500
#: Between two looks for new entries with `tail -f`.
FOLLOW_S = 0.5
#: A long chain takes its time.
VERIFY_S_MAX = 300.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """`tail [-n N] [-f]`, `verify`, `export [--after N]`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    tail = actions.add_parser("tail", help="the newest entries")
    tail.add_argument("-n", dest="count", metavar="N", type=whole(1, PAGE_ROWS), default=20,
                      help=f"how many (default 20, at most {PAGE_ROWS})")
    tail.add_argument("-f", dest="follow", action="store_true", help="go on with new ones")
    actions.add_parser("verify", help="has anything been deleted, reordered, edited or cut off?")
    export = actions.add_parser("export", help="all entries with their hashes, one JSON object a line")
    export.add_argument("--after", type=whole(0), default=0, metavar="NUMBER", help="only those after this number")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError; UnhealthyError when the log was falsified."""
    if options.action == "verify":
        return asyncio.run(_verify(context))
    if options.action == "export":
        return asyncio.run(_export(context, options.after))
    if options.follow:
        return asyncio.run(_follow(context, options.count))
    found = ask(context, AuditAsked(tail=True, limit=options.count), AuditEntries).entries
    if context.json:
        context.dump([_as_json(entry) for entry in found])
    else:
        for entry in found:
            print(_line(context, entry))
    return 0


async def _verify(context: Context) -> int:
    async with connected(context) as bus:
        found = await asked(bus, VerifyAudit(), AuditVerified, VERIFY_S_MAX)
    if context.json:
        context.dump({
            "entries": found.head.number, "head": found.head.hash.hex(), "faults": rows(found.faults),
        })
    elif not found.faults:
        context.say(f"the audit log is whole: {found.head.number} entries, head {found.head.hash.hex()[:16]}")
    else:
        for fault in found.faults:
            print(f"{context.paint(fault.what, 'red')} at entry {fault.number}: {fault.detail}")
    if found.faults:
        raise UnhealthyError(
            f"the audit log was falsified ({len(found.faults)} places): compare it with a backup of egress.db"
        )
    return 0


async def _export(context: Context, after: int) -> int:
    async with connected(context) as bus:
        async for entry in _entries(bus, after):
            print(json.dumps(_as_json(entry), ensure_ascii=False))
    return 0


async def _follow(context: Context, count: int) -> int:
    async with connected(context) as bus:
        newest = (await asked(bus, AuditAsked(tail=True, limit=count), AuditEntries)).entries
        after = newest[0].number - 1 if newest else 0
        while True:
            async for entry in _entries(bus, after):
                text = json.dumps(_as_json(entry), ensure_ascii=False) if context.json else _line(context, entry)
                print(text, flush=True)
                after = entry.number
            await asyncio.sleep(FOLLOW_S)


async def _entries(bus: Bus, after: int) -> AsyncIterator[Entry]:
    while page := (await asked(bus, AuditAsked(after=after, limit=PAGE_ROWS), AuditEntries)).entries:
        for entry in page:
            yield entry
        after = page[-1].number


def _as_json(entry: Entry) -> dict[str, object]:
    return {
        "number": entry.number, "ts_ms": entry.ts_ms, "actor": entry.actor, "action": entry.action,
        "subject": entry.subject, "outcome": entry.outcome, "detail": entry.detail, "cause": entry.cause.hex(),
        "hash": entry.hash.hex(),
    }


def _line(context: Context, entry: Entry) -> str:
    when = datetime.fromtimestamp(entry.ts_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    colour = {"deny": "red", "failed": "yellow", "cut": "yellow", "allow": "green"}.get(entry.outcome, "")
    detail = f"  {context.paint(entry.detail, 'grey')}" if entry.detail else ""
    outcome = context.paint(entry.outcome, colour)
    return f"{entry.number:>6}  {when}  {outcome}  {entry.action}  {entry.subject}  {entry.actor}{detail}"
