"""`microclaw message send`."""

from __future__ import annotations

import argparse
import sys
import uuid

from microclaw.cli.asking import ask
from microclaw.cli.context import Context
from microclaw.core.errors import UsageError
from microclaw.core.requests import Deliver, Done


def arguments(parser: argparse.ArgumentParser) -> None:
    """`send` and what it needs."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    send = actions.add_parser("send", help="send a message to a chat")
    send.add_argument("--channel", help="console, telegram, …; may be left out when --target is CHANNEL:ID")
    send.add_argument("--target", required=True, metavar="ID", help="the chat's id in its channel")
    send.add_argument("--message", required=True, metavar="TEXT", help="what to send; - reads it from the input")
    send.add_argument("--dry-run", action="store_true", help="only say what would be sent")


def run(context: Context, options: argparse.Namespace) -> int:
    """Send it. Raises MicroclawError: refused, or nobody takes it."""
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
