"""`microclaw groups list|show|add|rm`."""

from __future__ import annotations

import argparse
import re
import time
import uuid
from collections.abc import Sequence

import msgspec

from microclaw.cli.asking import ask, asked_of, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.terminal import one_line
from microclaw.core.errors import MicroclawError, UsageError
from microclaw.core.people_requests import SERVICE, RemoveGroup, Users, UsersAsked
from microclaw.core.requests import (
    Done,
    Group,
    GroupAnswer,
    Groups,
    GroupsAsked,
    RegisterGroup,
    TaskRow,
    Tasks,
    TasksAsked,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="registered chats, and those that could be")
    show = actions.add_parser("show", help="all that is known of one group")
    show.add_argument("group", metavar="GROUP", help="its folder, or a chat's CHANNEL:ID")
    remove = actions.add_parser("rm", help="the chat is no group any more; its folder and history stay")
    remove.add_argument("group", metavar="GROUP", help="its folder, or its chat's CHANNEL:ID")
    add = actions.add_parser("add", help="register a chat, or change how it is registered")
    add.add_argument("chat", metavar="CHAT", help="CHANNEL:ID, as `groups list` shows it")
    add.add_argument("--name", help="what people call it (default: the chat's id)")
    add.add_argument("--folder", help="the name of its folder (default: made from the name)")
    add.add_argument("--trigger", default="", metavar="WORD", help="what wakes the agent (default: @ and its name)")
    add.add_argument("--no-trigger", action="store_true", help="every message wakes the agent")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if options.action == "show":
        return _show(context, options.group)
    if options.action == "rm":
        return _remove(context, options.group)
    name = options.name or options.chat.split(":", 1)[-1]
    folder = options.folder or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    answer = ask(
        context,
        RegisterGroup(
            command_id=uuid.uuid4().hex, chat=options.chat, folder=folder, name=name, trigger=options.trigger,
            requires_trigger=not options.no_trigger,
        ),
        GroupAnswer,
    )
    if context.json:
        context.dump(rows([answer.group])[0])
    else:
        context.say(f"{answer.group.chat} is registered as {answer.group.folder}")
    return 0


def _list(context: Context) -> int:
    found = ask(context, GroupsAsked(), Groups)
    if context.json:
        context.dump({"groups": rows(found.groups), "chats": rows(found.chats)})
        return 0
    if not found.groups:
        context.say("no chat is registered yet: `microclaw chat` registers this terminal's")
    else:
        context.table(
            ("GROUP", "CHAT", "NAME", "WOKEN BY"),
            [
                (
                    group.folder + (" (main)" if group.is_main else ""), ", ".join((group.chat, *group.joined)),
                    group.name, _trigger(context, group),
                )
                for group in found.groups
            ],
        )
    others = [chat for chat in found.chats if not chat.registered]
    if others:
        print("\nnot registered (microclaw groups add CHAT):")
        now = time.time()
        for chat in others:
            ago = f"{duration(now - chat.last_message_ms / 1000)} ago" if chat.last_message_ms else "never"
            print(one_line(f"  {chat.chat}  {chat.name}  last message {ago}"))
    return 0


def note_unknown(context: Context, names: Sequence[str]) -> None:
    """Say so if one of these is no group's folder: what was set for a misspelt name holds for nobody."""
    try:
        known = {group.folder for group in ask(context, GroupsAsked(), Groups).groups}
    except MicroclawError:
        return  # the router is away; what was asked for is done all the same
    for name in names:
        if name and name not in known:
            context.progress(f"note: there is no group {name!r} yet; there are: {', '.join(sorted(known)) or 'none'}")


def _find(context: Context, name: str) -> Group:
    for group in ask(context, GroupsAsked(), Groups).groups:
        if name in (group.folder, group.chat, *group.joined):
            return group
    raise UsageError(f"there is no group {name!r}; `microclaw groups list` shows them")


def _show(context: Context, name: str) -> int:
    group = _find(context, name)
    people = [user for user in asked_of(context, SERVICE, UsersAsked(), Users).users if user.folder == group.folder]
    tasks = _tasks(context, group)
    folder = context.home.groups / group.folder
    if context.json:
        context.dump({
            **msgspec.to_builtins(group), "path": str(folder), "users": rows(people),
            "tasks": [task.id for task in tasks],
        })
        return 0
    facts = {
        "group": group.folder + (" (main)" if group.is_main else ""), "name": group.name,
        "chats": ", ".join((group.chat, *group.joined)), "folder": str(folder), "woken by": _trigger(context, group),
        "people": ", ".join(f"{user.name} ({user.role})" for user in people)
        or ("you" if group.is_main else "whoever writes there"),
        "tasks": ", ".join(task.id for task in tasks) or "none",
        "since": time.strftime("%Y-%m-%d %H:%M", time.localtime(group.added_ms / 1000)),
    }
    if group.container != type(group.container)():
        facts["container"] = msgspec.json.encode(group.container).decode()
    for fact, value in facts.items():
        print(f"{context.paint(f'{fact}:'.ljust(10), 'grey')} {one_line(value)}")
    return 0


def _remove(context: Context, name: str) -> int:
    group = _find(context, name)
    if tasks := _tasks(context, group):
        raise UsageError(
            f"{group.folder} has {len(tasks)} tasks that would go on: remove them first, "
            f"with `microclaw cron rm {tasks[0].id}`"
        )
    ask_router = RemoveGroup(command_id=uuid.uuid4().hex, group=group.chat)
    asked_of(context, SERVICE, ask_router, Done)
    if context.json:
        context.dump({"removed": group.folder})
    context.say(f"{group.chat} is no group any more; {context.home.groups / group.folder} stays")
    return 0


def _tasks(context: Context, group: Group) -> list[TaskRow]:
    tasks = ask(context, TasksAsked(), Tasks).tasks
    return [task for task in tasks if task.group == group.folder and task.status != "completed"]


def _trigger(context: Context, group: Group) -> str:
    if not group.requires_trigger:
        return "every message"
    return group.trigger or f"@{context.settings.assistant.name}"
