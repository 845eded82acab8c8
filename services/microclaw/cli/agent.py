"""`microclaw agent -m TEXT`: one thing said, one answer printed."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from microclaw.cli.asking import connected
from microclaw.cli.chat import chat_named
from microclaw.cli.context import Context
from microclaw.cli.conversation import Conversation
from microclaw.cli.numbers import seconds
from microclaw.cli.terminal import printable
from microclaw.core.errors import UnhealthyError, UsageError
from microclaw.core.requests import ConsoleLine

ANSWER_TIMEOUT_S = 300.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to say, where."""
    parser.add_argument("-m", "--message", metavar="TEXT", required=True, help="what to say; - reads it from the input")
    parser.add_argument("--chat", metavar="CHAT", help="a console chat (default: console.chat in the configuration)")
    parser.add_argument(
        "--timeout", type=seconds, default=ANSWER_TIMEOUT_S, metavar="S", help="wait so long (default 300 s)"
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Print the answer. Raises UnhealthyError: there was none in time, or the run failed."""
    text = sys.stdin.read() if options.message == "-" else options.message
    if not text.strip():
        raise UsageError("there is nothing to say: -m TEXT")
    line = asyncio.run(answer(context, chat_named(context, options.chat), text.strip(), options.timeout))
    if context.json:
        context.dump(msgspec.to_builtins(line))
    elif line.origin != "notice":
        print(printable(line.text))
    if line.origin == "notice":
        raise UnhealthyError(printable(line.text))
    return 0


async def answer(context: Context, chat: str, text: str, timeout_s: float) -> ConsoleLine:
    """The first thing that is said in the chat after this. Raises UnhealthyError: nothing was, in time."""
    async with connected(context) as bus:
        conversation = Conversation(bus, chat)
        last = await conversation.last(timeout_s)
        await conversation.say(text, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                async for line in conversation.lines(last):
                    return line
        except TimeoutError:
            pass
    raise UnhealthyError(f"no answer within {timeout_s:.0f} s; it may still come: see `microclaw chat`")
