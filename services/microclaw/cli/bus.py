"""`microclaw bus …`: look at the bus and mend it, through the broker; only `repair` works on the file, broker down."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from microclaw.bus import admin
from microclaw.bus.api import Bus, Draft
from microclaw.cli.asking import connected, refusal
from microclaw.cli.bus_screens import Screens, Share
from microclaw.cli.context import Context
from microclaw.cli.numbers import WHOLE_MAX, whole
from microclaw.core.errors import NotRunningError, UnhealthyError, UsageError
from microclaw.core.requests import Done, Failed

T = TypeVar("T")

#: How often a job is asked after, and `tail -f` looks for more, s.
POLL_S = 0.2


def arguments(parser: argparse.ArgumentParser) -> None:
    """One action and what it takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("info", help="messages, commits, sizes, clients")
    listing = actions.add_parser("ls", help="sessions, most recently used first")
    listing.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin so")
    group = actions.add_parser("sub", help="consumer groups: info [GROUP], rm GROUP")
    group.add_argument("what", choices=("info", "rm"), help="show them, or forget one and where it stood")
    group.add_argument("group", metavar="GROUP", nargs="?", default="", help="a name from `bus sub info`")
    tail = actions.add_parser("tail", help="the newest messages (-f: and what comes)")
    tail.add_argument("--from", dest="start", default="-10", metavar="WHERE",
                      help="an offset, -N for the last N, or a time (2026-11-23T12:00)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    tail.add_argument("--kind", action="append", help="only this kind; * and > as in a subscription; repeatable")
    tail.add_argument("--session", default="", help="only sessions that begin so")
    publish = actions.add_parser("pub", help="publish a message: bus pub SESSION KIND [JSON]")
    publish.add_argument("session", metavar="SESSION", help="for example console:main")
    publish.add_argument("kind", metavar="KIND", help="a kind of docs/kinds.md")
    publish.add_argument("payload", metavar="JSON", nargs="?", default="{}", help="the other fields of the payload")
    replay = actions.add_parser("replay", help="a session's messages after a seq, since a time, or the last ones")
    replay.add_argument("session", metavar="SESSION", help="a name from `bus ls`")
    begin = replay.add_mutually_exclusive_group()
    begin.add_argument("--after", type=whole(0), default=0, metavar="SEQ", help="after this seq (default 0: all)")
    begin.add_argument("--from", dest="since", metavar="TIME", help="stored since then (2026-11-23T12:00)")
    begin.add_argument("--last", type=whole(1), metavar="N", help="the last so many")
    dead = actions.add_parser("dlq", help="dead letters: ls [GROUP], requeue GROUP OFFSET|all, drop GROUP OFFSET|all")
    dead.add_argument("what", choices=("ls", "requeue", "drop"), help="show them, deliver again, or give up")
    dead.add_argument("group", metavar="GROUP", nargs="?", default="", help="a name from `bus sub info`")
    dead.add_argument("offset", metavar="OFFSET", nargs="?", default="", help="from `bus dlq ls`, or all")
    key = actions.add_parser("key", help="keys of peers over tcp: ls, add NAME FILE, rm NAME")
    key.add_argument("what", choices=("ls", "add", "rm"), help="show them, make one, or void one")
    key.add_argument("name", metavar="NAME", nargs="?", default="", help="a peer that [bus.rights] knows")
    key.add_argument("file", metavar="FILE", nargs="?", type=Path, help="where the peer's key file is written (0600)")
    actions.add_parser("metrics", help="the numbers as Prometheus text")
    actions.add_parser("check", help="read every row and say what is damaged")
    actions.add_parser("repair", help="save what can be read of a damaged journal (MicroClaw must be down)")
    actions.add_parser("compact", help="give unused space back (publishers wait meanwhile)")
    backup = actions.add_parser("backup", help="copy the journal to a new file, without stopping")
    backup.add_argument("file", metavar="FILE", type=Path, help="a new file")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. `check` that finds something exits with 5."""
    if options.action == "repair":
        return _repair(context)
    if options.action == "check" and not _running(context):
        return _check_lying(context)
    return asyncio.run(_asked(context, options))


def _running(context: Context) -> bool:
    from microclaw.bus.supervisor import Supervisor

    try:
        Supervisor(context.home.supervisor_socket).pid()
    except NotRunningError:
        return False
    return True


async def _asked(context: Context, options: argparse.Namespace) -> int:
    async with connected(context) as bus:
        return await _ACTIONS[options.action](bus, Screens(context), options)


async def _ask(bus: Bus, question: msgspec.Struct, answer: type[T]) -> T:
    found = await bus.request("broker", question, answer | Failed, timeout_s=60)  # type: ignore[arg-type]
    if isinstance(found, Failed):
        raise refusal(found)
    return found


async def _info(bus: Bus, screens: Screens, _options: argparse.Namespace) -> int:
    screens.info(await _ask(bus, admin.BusInfoAsked(), admin.BusInfo))
    return 0


async def _ls(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    found = (await _ask(bus, admin.SessionsAsked(prefix=options.prefix), admin.SessionsOfBus)).sessions
    screens.sessions(found, options.prefix)
    return 0


async def _sub(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    if options.what == "rm":
        if not options.group:
            raise UsageError("microclaw bus sub rm GROUP: `microclaw bus sub info` shows them")
        await _ask(bus, admin.DropGroup(name=options.group), Done)
        screens.done({"group": options.group, "done": "rm"}, f"consumer group {options.group} is forgotten")
        return 0
    screens.groups((await _ask(bus, admin.GroupsOfBusAsked(name=options.group), admin.GroupsOfBus)).groups)
    return 0


async def _tail(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    after, after_ms = _where(options.start)
    kinds = tuple(options.kind or (">",))
    shown = False
    while True:
        found = await _ask(
            bus, admin.TailAsked(after=after, after_ms=after_ms, kinds=kinds, sessions=options.session), admin.TailRows
        )
        screens.rows(found.rows)
        shown = shown or bool(found.rows)
        moved, after, after_ms = found.last != after, found.last, 0
        if found.rows or (moved and after > 0):
            continue
        if not options.follow:
            if not shown:
                screens.context.progress("no message there is of this kind, session and time")
            return 0
        await asyncio.sleep(POLL_S)


_WHERE = "an offset, -N or a time"


def _where(start: str) -> tuple[int, int]:
    """(offset to begin after, or moment in ms)."""
    try:
        number = int(start)
    except ValueError:
        return 0, _moment(start, _WHERE)
    if abs(number) > WHOLE_MAX:
        raise UsageError(f"--from {start!r}: {_WHERE} like 2026-11-23T12:00 is wanted")
    return (number if number < 0 else max(number - 1, 0)), 0


def _moment(text: str, wanted: str = "a time") -> int:
    """A time of the command line as Unix ms."""
    from datetime import datetime

    try:
        return max(0, int(datetime.fromisoformat(text).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError):
        raise UsageError(f"--from {text!r}: {wanted} like 2026-11-23T12:00 is wanted") from None


async def _pub(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    from microclaw.core.kinds import KINDS

    if options.kind not in KINDS:
        raise UsageError(f"{options.kind} is no kind; there are: {', '.join(sorted(KINDS))}")
    try:
        payload = msgspec.json.decode(options.payload, type=dict)
        message = msgspec.convert(payload | {"kind": options.kind}, type=KINDS[options.kind])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"the payload is no {options.kind}: {error}") from error
    (receipt,) = await bus.publish(Draft(options.session, message), timeout_s=10)
    screens.receipt(options.session, receipt)
    return 0


async def _replay(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    found = (await _ask(bus, admin.SessionsAsked(prefix=options.session), admin.SessionsOfBus)).sessions
    last = next((session.last_seq for session in found if session.name == options.session), None)
    if last is None:
        raise UsageError(f"there is no session {options.session!r}: `microclaw bus ls` shows them")
    after = options.after
    if options.since or options.last:
        since_ms = _moment(options.since) if options.since else 0
        after = await bus.seek(options.session, since_ms=since_ms, last=options.last)
    if after >= last:
        where = options.since or after
        screens.context.progress(f"{options.session} has nothing after {where}: its last seq is {last}")
        return 0
    async for envelope in bus.replay(options.session, after):
        screens.envelope(envelope)
        if envelope.seq >= last:
            break
    return 0


async def _dlq(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    if options.what == "ls":
        screens.dead((await _ask(bus, admin.DeadLettersAsked(group=options.group), admin.DeadLetters)).letters)
        return 0
    if not options.group or not (options.offset == "all" or options.offset.isdigit()):
        raise UsageError(f"microclaw bus dlq {options.what} GROUP OFFSET (or `all`): `microclaw bus dlq ls` shows them")
    offset = 0 if options.offset == "all" else int(options.offset)
    done = await _ask(bus, admin.SettleDead(group=options.group, offset=offset, action=options.what), admin.Settled)
    what = "delivered again" if options.what == "requeue" else "dropped"
    screens.done(
        {"group": options.group, "done": options.what, "count": done.count},
        f"{done.count} dead letter{'' if done.count == 1 else 's'} of {options.group} {what}",
    )
    return 0


async def _key(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    if options.what == "ls":
        screens.peers(await _ask(bus, admin.PeersAsked(), admin.Peers))
        return 0
    if options.what == "rm":
        if not options.name:
            raise UsageError("microclaw bus key rm NAME: `microclaw bus key ls` shows them")
        await _ask(bus, admin.RemovePeer(name=options.name), Done)
        screens.done({"name": options.name, "done": "rm"}, f"the key of {options.name} is void")
        return 0
    if options.file is None or options.file.exists():
        raise UsageError("microclaw bus key add NAME FILE: name a file that is not there yet")
    keys = (await _ask(bus, admin.AddPeer(name=options.name), admin.NewPeer)).keys
    options.file.touch(mode=0o600, exist_ok=False)
    options.file.write_bytes(msgspec.json.encode(keys))
    screens.done(
        {"name": options.name, "file": str(options.file), "done": "add"},
        f"{options.file} holds the key of {options.name}: carry it to its machine and keep it secret",
    )
    return 0


async def _metrics(bus: Bus, screens: Screens, _options: argparse.Namespace) -> int:
    screens.metrics((await _ask(bus, admin.MetricsAsked(), admin.Text)).text)
    return 0


async def _check(bus: Bus, screens: Screens, _options: argparse.Namespace) -> int:
    return screens.findings((await _job(bus, screens, admin.StartJob(job="check"))).findings)


async def _compact(bus: Bus, screens: Screens, _options: argparse.Namespace) -> int:
    before = (await _ask(bus, admin.BusInfoAsked(), admin.BusInfo)).journal_bytes
    await _job(bus, screens, admin.StartJob(job="compact"))
    after = (await _ask(bus, admin.BusInfoAsked(), admin.BusInfo)).journal_bytes
    screens.done(
        {"journal_bytes": after, "journal_bytes_before": before},
        f"the journal has {after / 1e6:.1f} MB now, it had {before / 1e6:.1f}",
    )
    return 0


async def _backup(bus: Bus, screens: Screens, options: argparse.Namespace) -> int:
    began = time.monotonic()
    await _job(bus, screens, admin.StartJob(job="backup", path=str(options.file.absolute())))
    size_bytes, took_s = options.file.stat().st_size, time.monotonic() - began
    screens.done(
        {"file": str(options.file.absolute()), "bytes": size_bytes, "took_s": round(took_s, 3)},
        f"{options.file}: {size_bytes / 1e6:.1f} MB, {took_s:.1f} s",
    )
    return 0


async def _job(bus: Bus, screens: Screens, wanted: admin.StartJob) -> admin.JobState:
    state = await _ask(bus, wanted, admin.JobState)
    with Share(screens.context, wanted.job) as share:
        while not state.done:
            await asyncio.sleep(POLL_S)
            state = await _ask(bus, admin.JobAsked(), admin.JobState)
            share.show(state.progress)
    if state.error:
        raise UnhealthyError(state.error)
    return state


def _check_lying(context: Context) -> int:
    """The broker is down, perhaps because of what is to be found: look at the file itself."""
    from microclaw.bus.journal import Journal
    from microclaw.bus.journal_check import check

    path = context.home.data / "journal.db"
    if not path.exists():
        raise UsageError("there is no journal yet: `microclaw up` makes it")
    held = Journal.hold(path)
    try:
        with Share(context, "check") as share:
            found = tuple(check(path, share.show))
    finally:
        held.close()
    return Screens(context).findings(found)


def _repair(context: Context) -> int:
    from microclaw.bus.journal_check import repair

    if _running(context):
        raise UsageError("MicroClaw runs: `microclaw down` first")
    path = context.home.data / "journal.db"
    if not path.exists():
        raise UsageError("there is no journal yet: `microclaw up` makes it")
    with Share(context, "repair") as share:
        lost, kept = repair(path, share.show)
    Screens(context).repaired(lost, kept)
    return 0


_ACTIONS = {
    "info": _info, "ls": _ls, "sub": _sub, "tail": _tail, "pub": _pub, "replay": _replay, "dlq": _dlq,
    "key": _key, "metrics": _metrics, "check": _check, "compact": _compact, "backup": _backup,
}
