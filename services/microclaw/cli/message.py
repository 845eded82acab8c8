"""`microclaw message send|search`."""

from __future__ import annotations

import argparse
import sys
import uuid
from datetime import datetime

import msgspec

from microclaw.cli.asking import ask
from microclaw.cli.context import Context
from microclaw.cli.numbers import whole
from microclaw.core.errors import UsageError
from microclaw.core.requests import Deliver, Done, FoundMessages, SearchMessages
from microclaw.core.search import HITS_MAX
from microclaw.core.text import visible


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and what they need."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    send = actions.add_parser("send", help="send a message to a chat")
    send.add_argument("--channel", help="console, telegram, …; may be left out when --target is CHANNEL:ID")
    send.add_argument("--target", required=True, metavar="ID", help="the chat's id in its channel")
    send.add_argument("--message", required=True, metavar="TEXT", help="what to send; - reads it from the input")
    send.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    search = actions.add_parser("search", help="find past messages by their words, the newest first")
    search.add_argument("query", metavar="TEXT", nargs="+", help='words, and "phrases in quotes"')
    search.add_argument("--chat", default="", metavar="CHANNEL:ID", help="in this chat alone")
    search.add_argument("--before", type=whole(1), default=0, metavar="N", help="older ones than message number N")
    search.add_argument(
        "--limit", type=whole(1, HITS_MAX), default=20, metavar="N",
        help=f"so many at most (default 20, at most {HITS_MAX})",
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError: refused, or nobody takes it."""
    return _search(context, options) if options.action == "search" else _send(context, options)


def _search(context: Context, options: argparse.Namespace) -> int:
    found = ask(context, SearchMessages(
        query=" ".join(options.query), chat=options.chat, before=options.before, limit=options.limit,
    ), FoundMessages)
    if context.json:
        context.dump(msgspec.to_builtins(found))
        return 0
    for row in found.rows:
        sent = datetime.fromtimestamp(row.sent_ms / 1000).astimezone()
        print(context.paint(f"--- {sent:%Y-%m-%d %H:%M}  {visible(row.sender_name)} in {row.chat}", "grey"))
        print(visible(row.text))
    if found.more_before:
        context.say(f"older ones: --before {found.more_before}")
    if not found.rows:
        context.say(f"nothing among {found.searched} messages")
    return 0


def _send(context: Context, options: argparse.Namespace) -> int:
    target = str(options.target)
    chat = target if options.channel is None else f"{options.channel}:{target.removeprefix(f'{options.channel}:')}"
    if ":" not in chat or not chat.split(":", 1)[1]:
        raise UsageError(f"--target {target} needs --channel, or write CHANNEL:ID")
    text = sys.stdin.read() if options.message == "-" else options.message
    if not text.strip():
        raise UsageError("there is nothing to send: --message TEXT")
    if not options.dry_run:
        ask(context, Deliver(command_id=uuid.uuid4().hex, chat=chat, text=text), Done)
    if context.json:
        context.dump({"chat": chat, "text": text, "sent": not options.dry_run})
    else:
        context.say(f"would be sent to {chat}: {text}" if options.dry_run else f"on its way to {chat}")
    return 0
