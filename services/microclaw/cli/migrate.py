"""`microclaw migrate from-nanoclaw PATH [--apply]`: groups, memory, history, tasks and keys of a NanoClaw installation.

Without `--apply` nothing is changed: it says what would be. It may be done again and again: what is there stays.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

from microclaw.bus.api import Bus
from microclaw.cli.asking import asked, connected, rows
from microclaw.cli.context import Context
from microclaw.cli.nanoclaw_files import TheirFiles, ms_of
from microclaw.core.kinds import MessageReceived
from microclaw.core.nanoclaw import Move, plan_move, read_cursors, secrets_in
from microclaw.core.nanoclaw import chat_of as our_chat
from microclaw.core.requests import (
    ChangeTask,
    GroupAnswer,
    Groups,
    GroupsAsked,
    Imported,
    ImportMessages,
    SecretAnswer,
    SetSecret,
    TaskAnswer,
    Tasks,
    TasksAsked,
)
from microclaw.core.tasks import task_id_of

#: Messages of one request.
BATCH = 200


def arguments(parser: argparse.ArgumentParser) -> None:
    """The sources."""
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    nanoclaw = sources.add_parser("from-nanoclaw", help="a NanoClaw folder")
    nanoclaw.add_argument("path", type=Path, metavar="PATH", help="the folder that has store/messages.db in it")
    nanoclaw.add_argument("--apply", action="store_true", help="do it (without: only say what would be done)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    theirs = TheirFiles(options.path.expanduser())
    if options.apply:
        return asyncio.run(_apply(context, theirs))
    _tell(context, theirs, _plan(context, theirs, {"main": context.settings.console.chat}))
    context.say("nothing was changed; to do it: microclaw up -d, then this with --apply")
    return 0


def _plan(context: Context, theirs: TheirFiles, taken: dict[str, str]) -> Move:
    zone = ZoneInfo(context.settings.assistant.timezone or "UTC")
    return plan_move(theirs.groups(), theirs.tasks(), taken=taken, now_ms=time.time_ns() // 1_000_000, zone=zone)


def _tell(context: Context, theirs: TheirFiles, move: Move) -> None:
    count = sum(1 for _ in theirs.messages(context.settings.assistant.name))
    _, warnings = read_cursors(theirs.cursors())
    secrets = list(secrets_in(theirs.env()))
    left_out = [*move.left_out, *warnings]
    if context.json:
        context.dump({
            "groups": rows(move.groups), "tasks": rows(move.tasks), "messages": count, "secrets": secrets,
            "left_out": left_out,
        })
        return
    for group in move.groups:
        print(f"group    {group.folder:20} {group.chat} ({group.name})")
    for task in move.tasks:
        print(f"task     {task.group:20} {task.schedule} {task.value}: {' '.join(task.prompt.split())[:50]}")
    print(f"messages {count}")
    for name in secrets:
        print(f"secret   {name} as {_secret_name(name)}")
    for line in left_out:
        print(context.paint(f"not      {line}", "yellow"))


async def _apply(context: Context, theirs: TheirFiles) -> int:
    async with connected(context) as bus:
        known = (await asked(bus, GroupsAsked(), Groups)).groups
        move = _plan(context, theirs, {group.folder: group.chat for group in known})
        # The memory first: a group that is registered without one is given an empty one.
        files = [theirs.copy_folder(folder, context.home.groups / ours) for folder, ours in move.folders.items()]
        if (theirs.root / "groups" / "global").is_dir():
            files.append(theirs.copy_folder("global", context.home.groups / "global"))
        for registration in move.groups:
            await asked(bus, registration, GroupAnswer)
        imported = await _import(bus, theirs, context.settings.assistant.name)
        made = await _make_tasks(bus, move)
        secrets = secrets_in(theirs.env())
        for name, value in secrets.items():
            await asked(bus, SetSecret(name=_secret_name(name), value=value), SecretAnswer)
    facts = {
        "groups": len(move.groups), "files_copied": sum(copied for copied, _ in files),
        "messages_added": imported.added, "messages_known": imported.known, "tasks_added": made,
        "secrets": len(secrets), "left_out": list(move.left_out),
    }
    if context.json:
        context.dump(facts)
        return 0
    context.say(
        f"{facts['groups']} groups, {facts['files_copied']} files, {imported.added} messages "
        f"({imported.known} were here before), {made} tasks, {len(secrets)} secrets"
    )
    for line in move.left_out:
        print(context.paint(f"not      {line}", "yellow"))
    return 0


async def _import(bus: Bus, theirs: TheirFiles, assistant_name: str) -> Imported:
    """The history. What their agents had not read yet waits for the next message of its chat."""
    cursors, _ = read_cursors(theirs.cursors())
    read_until = {our_chat(jid): ms_of(stamp) for jid, stamp in cursors.items()}
    total = {"added": 0, "known": 0, "elsewhere": 0}
    history = list(theirs.messages(assistant_name))
    for is_read in (True, False):
        some = [each for each in history if _is_read(each, read_until) == is_read]
        for batch in _batches(some):
            found = await asked(bus, ImportMessages(messages=tuple(batch), is_read=is_read), Imported)
            for name in total:
                total[name] += getattr(found, name)
    return Imported(**total)


def _is_read(message: MessageReceived, read_until: dict[str, int]) -> bool:
    # A chat whose cursor is not known: rather read it twice than never, says `read_cursors`.
    return message.sent_ms <= read_until.get(message.chat, -1)


def _batches(messages: Sequence[MessageReceived]) -> Iterator[list[MessageReceived]]:
    left = iter(messages)
    while batch := list(islice(left, BATCH)):
        yield batch


async def _make_tasks(bus: Bus, move: Move) -> int:
    there = {task.id for task in (await asked(bus, TasksAsked(), Tasks)).tasks}
    made = 0
    for task in move.tasks:
        if task_id_of(task.command_id) in there:
            continue
        answer = await asked(bus, task, TaskAnswer)
        made += 1
        if task.command_id in move.paused:
            pause = ChangeTask(command_id=f"{task.command_id} pause", task_id=answer.task.id, action="pause")
            await asked(bus, pause, TaskAnswer)
    return made


def _secret_name(name: str) -> str:
    return name.lower().replace("_", "-")
