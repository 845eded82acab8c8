"""`microclaw groups list|add`."""

from __future__ import annotations

import argparse
import re
import time
import uuid

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
from microclaw.core.requests import GroupAnswer, Groups, GroupsAsked, RegisterGroup


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list` and `add`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="registered chats, and those that could be")
    add = actions.add_parser("add", help="register a chat, or change how it is registered")
    add.add_argument("chat", metavar="CHAT", help="CHANNEL:ID, as `groups list` shows it")
    add.add_argument("--name", help="what people call it (default: the chat's id)")
    add.add_argument("--folder", help="the name of its folder (default: made from the name)")
    add.add_argument("--trigger", default="", metavar="WORD", help="what wakes the agent (default: @ and its name)")
    add.add_argument("--no-trigger", action="store_true", help="every message wakes the agent")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
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
                (group.folder + (" (main)" if group.is_main else ""), group.chat, group.name, _trigger(context, group))
                for group in found.groups
            ],
        )
    others = [chat for chat in found.chats if not chat.registered]
    if others:
        print("\nnot registered (microclaw groups add CHAT):")
        now = time.time()
        for chat in others:
            print(f"  {chat.chat}  {chat.name}  last message {duration(now - chat.last_message_ms / 1000)} ago")
    return 0


def _trigger(context: Context, group: object) -> str:
    if not getattr(group, "requires_trigger", True):
        return "every message"
    return getattr(group, "trigger", "") or f"@{context.settings.assistant.name}"
