"""`microclaw chat`: a conversation in the terminal; starts MicroClaw if it does not run.

The main thread reads the keyboard, so that Ctrl-C and readline work as everywhere; a second thread runs the event loop
and prints what comes, above the line being typed.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import shutil
import sys
import textwrap
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from microclaw.bus.supervisor import Supervisor
from microclaw.cli import readiness, up
from microclaw.cli.context import Context
from microclaw.cli.conversation import HISTORY_LINES, Conversation, Seen
from microclaw.cli.numbers import seconds
from microclaw.cli.supervisord import AlreadyRunning
from microclaw.cli.terminal import printable
from microclaw.core.errors import MicroclawError, NotRunningError, UnhealthyError, UsageError
from microclaw.core.requests import ConsoleLine, Failed, ServiceStatus, StatusAsked

#: With piped input: how long an answer may take.
ANSWER_TIMEOUT_S = 300.0
#: With piped input: at its end, how long what was said meanwhile may take to be shown.
SHOW_TIMEOUT_S = 10.0
#: A narrower terminal breaks the lines itself, columns.
WIDTH_MIN = 20
LEAVE = ("/quit", "/exit", "/q")

T = TypeVar("T")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which chat."""
    parser.add_argument("--chat", metavar="CHAT", help="another chat (default: console.chat in the configuration)")
    parser.add_argument(
        "--timeout", type=seconds, default=ANSWER_TIMEOUT_S, metavar="S", help="piped input: wait so long for an answer"
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Talk until the input ends. With piped input each line waits for its answer, and at its end all that was said
    until then has been shown."""
    chat = chat_named(context, options.chat)
    bring_up(context)
    with _Loop() as loop:
        screen = _Screen(context, context.settings.assistant.name)
        talk = loop.do(_Talk.begin(context, chat, screen))
        try:
            loop.start(talk.read())
            if screen.interactive:
                screen.greet(context)
            return _type(loop, talk, screen, options.timeout)
        except KeyboardInterrupt:
            return 0
        finally:
            screen.close()
            loop.do(talk.end())


def chat_named(context: Context, chat: str | None) -> str:
    """The chat that is meant. Raises UsageError."""
    named = chat or context.settings.console.chat
    named = named if ":" in named else f"console:{named}"
    if not named.startswith("console:"):
        raise UsageError(f"{named} is not a chat of this terminal; those begin with console:")
    return named


def bring_up(context: Context) -> None:
    """Start MicroClaw unless it runs, and wait until it works. Raises MicroclawError."""
    try:
        Supervisor(context.home.supervisor_socket).pid()
    except NotRunningError:
        up.prepare(context)
        context.progress("starting MicroClaw …")
        try:
            up.start(context)
        except AlreadyRunning:
            # Somebody else started it in the same moment.
            readiness.wait(context, None)


def _type(loop: _Loop, talk: _Talk, screen: _Screen, timeout_s: float) -> int:
    """The keyboard's (or the pipe's) side. Returns the exit code."""
    while (text := screen.ask()) is not None:
        text = text.strip()
        if text in LEAVE:
            break
        if not text:
            continue
        try:
            if screen.interactive:
                loop.start(talk.say(text))
            else:
                loop.do(talk.say_and_wait(text, timeout_s))
        except TimeoutError:
            raise UnhealthyError(f"no answer within {timeout_s:.0f} s: see `microclaw status`") from None
    if not screen.interactive:
        with contextlib.suppress(TimeoutError):
            loop.do(talk.catch_up(min(timeout_s, SHOW_TIMEOUT_S)))
    return 0


class _Talk:
    """The conversation, in the event loop's thread."""

    @classmethod
    async def begin(cls, context: Context, chat: str, screen: _Screen) -> _Talk:
        from microclaw.bus.client import connect

        return cls(context, chat, screen, await connect(context.home.bus, "cli", timeout_s=readiness.READY_WAIT_S))

    def __init__(self, context: Context, chat: str, screen: _Screen, bus: Any) -> None:
        self._bus = bus
        self._screen = screen
        self._conversation = Conversation(bus, chat, self._on_away)
        self._seen = Seen(context.home, chat)
        #: The newest line that was shown, now or an earlier time; 0 = nothing is known yet.
        self._shown = 0
        #: No line is shown any more.
        self._deaf = False
        self._changed = asyncio.Condition()
        self._one_at_a_time = asyncio.Lock()

    async def read(self) -> None:
        """Print every line that comes, for ever."""
        try:
            for trouble in await self._troubles():
                self._screen.note(f"! {trouble}", "yellow")
            after = self._seen.load()
            if after is None:
                after = max(0, await self._conversation.last() - HISTORY_LINES)
            await self._have_shown(after)
            async for line in self._conversation.lines(after):
                self._screen.reply(line)
                self._seen.save(line.number)
                await self._have_shown(line.number)
        except MicroclawError as error:
            self._screen.note(f"microclaw: {error}", "red")
            self._deaf = True
            await self._have_shown(self._shown)

    async def _have_shown(self, number: int) -> None:
        async with self._changed:
            self._shown = number
            self._changed.notify_all()

    async def say(self, text: str) -> None:
        """Say it, after what was said before. A refusal is shown."""
        async with self._one_at_a_time:
            try:
                await self._conversation.say(text)
            except MicroclawError as error:
                self._screen.note(f"microclaw: {error}", "red")

    async def say_and_wait(self, text: str, timeout_s: float) -> None:
        """Say it and wait for the next line. Raises TimeoutError."""
        # By number: what was said while nobody looked may still be coming in.
        before = await self._conversation.last(timeout_s)
        await self._conversation.say(text, timeout_s)
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: self._shown > before), timeout_s)

    async def catch_up(self, timeout_s: float) -> None:
        """Until everything is shown that was said by now. Raises TimeoutError, UnhealthyError."""
        newest = await self._conversation.last(timeout_s)
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: self._deaf or self._shown >= newest), timeout_s)

    async def end(self) -> None:
        """Let go of the bus, what was typed being said first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._one_at_a_time.acquire(), 2.0)
        await self._bus.close()

    async def _troubles(self) -> tuple[str, ...]:
        """What keeps the agents from working, if anything does."""
        answer = await self._bus.request("sandbox", StatusAsked(), ServiceStatus | Failed, timeout_s=2.0)
        return answer.troubles if isinstance(answer, ServiceStatus) else ()

    def _on_away(self, away: bool) -> None:
        self._screen.note("(reconnecting …)" if away else "(connected again)", "grey")


class _Screen:
    """The terminal, or a pipe. Printing may happen while a line is being typed."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        self._name = name
        self._lock = threading.Lock()
        self._typing = False
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if self.interactive:
            import readline

            self._readline = readline

    def greet(self, context: Context) -> None:
        """Who is there, and how to leave."""
        model = context.settings.model
        thinks = "built-in skills, no model" if model.backend == "local" else f"{model.backend} {model.name}".strip()
        self.note(f"{self._name} is here ({thinks}). /quit or Ctrl-D leaves; `microclaw down` stops MicroClaw.")

    def ask(self) -> str | None:
        """The next line that is typed, None = the input ended."""
        try:
            if not self.interactive:
                line = sys.stdin.readline()
                return line if line else None
            self._typing = True
            return input("you> ")
        except EOFError:
            return None
        finally:
            self._typing = False

    def reply(self, line: ConsoleLine) -> None:
        """What the assistant says."""
        shown = printable(line.text)
        if line.origin == "notice":
            self.note(f"! {shown}", "yellow")
        else:
            who = self._context.paint(f"{self._name}>", "green")
            self._print(f"{who} {self._wrapped(shown, len(self._name) + 2)}")

    def note(self, text: str, colour: str = "grey") -> None:
        """Something beside the conversation."""
        self._print(self._context.paint(self._wrapped(text, 2), colour))

    def _wrapped(self, text: str, indent: int) -> str:
        """On a terminal: broken between words, all lines but the first indented."""
        if not self.interactive:
            return text
        width = max(WIDTH_MIN, shutil.get_terminal_size().columns)
        pad = " " * indent
        lines = [
            textwrap.wrap(
                line, width, initial_indent=pad, subsequent_indent=pad + line[: len(line) - len(line.lstrip())],
                break_on_hyphens=False, drop_whitespace=True,
            ) or [""]
            for line in text.split("\n")
        ]
        return "\n".join(line for wrapped in lines for line in wrapped)[indent:]

    def close(self) -> None:
        """The shell's prompt begins on a line of its own."""
        if self.interactive:
            print(flush=True)

    def _print(self, text: str) -> None:
        with self._lock:
            if self._typing:
                # Clear the prompt, print above it, and put the prompt with what was typed back.
                typed = self._readline.get_line_buffer()
                clear = "\n" if self._context.env.get("TERM") == "dumb" else "\r\033[K"
                sys.stdout.write(f"{clear}{text}\nyou> {typed}")
            else:
                sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


class _Loop:
    """An event loop in a thread of its own."""

    def __enter__(self) -> _Loop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
        self._thread.start()
        self._running: set[concurrent.futures.Future[Any]] = set()
        return self

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run it beside."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._running.add(future)
        return future

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __exit__(self, *_error: object) -> None:
        for future in self._running:
            future.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
