"""A chat over the bus: say things, read what is said, and outlive restarts of the broker and the console."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.cli.asking import refusal
from microclaw.core.errors import UnhealthyError
from microclaw.core.home import Home
from microclaw.core.ids import id_text, new_id
from microclaw.core.requests import ANSWERED_BY, ConsoleLine, Failed, Lines, Read, Request, Said, Say

#: One question waits so long at the console for a new line.
READ_WAIT_MS = 20_000
#: A console or broker that is away so long is told to the person.
AWAY_S = 3.0
RETRY_S = 0.2
#: Of an older conversation, shown when nothing is known of what was seen.
HISTORY_LINES = 20

T = TypeVar("T")


class Conversation:
    """One chat of the console. `on_away(True)` is called when it is out of reach, `on_away(False)` when it is back."""

    def __init__(self, bus: Bus, chat: str, on_away: Callable[[bool], None] = lambda _away: None) -> None:
        self.chat = chat
        self._bus = bus
        self._on_away = on_away
        self._away = False

    async def say(self, text: str, timeout_s: float | None = None) -> Said:
        """Returns when the journal has it; asked again under one id until then, or `timeout_s`.

        :raises UnhealthyError: not within the time; it may or may not have been said.
        """
        name = f"cli-{id_text(new_id(time.time_ns() // 1_000_000))}"
        return await self._ask(Say(chat=self.chat, text=text, platform_id=name), Said, timeout_s)

    async def last(self, timeout_s: float | None = None) -> int:
        """The number of the newest line."""
        return (await self._ask(Read(chat=self.chat, only_last=True), Lines, timeout_s)).last

    async def lines(self, after: int) -> AsyncIterator[ConsoleLine]:
        """Every line after this number, as it comes, for ever."""
        while True:
            found = await self._ask(Read(chat=self.chat, after=after, wait_ms=READ_WAIT_MS), Lines, None)
            for line in found.lines:
                after = line.number
                yield line

    async def _ask(self, question: Request, answer: type[T], timeout_s: float | None) -> T:
        begin = time.monotonic()
        # A reader waits long on purpose; anybody else has an answer at once, or asks again.
        each_s = AWAY_S + (question.wait_ms / 1000 if isinstance(question, Read) else 0.0)
        while True:
            left_s = each_s if timeout_s is None else begin + timeout_s - time.monotonic()
            try:
                found = await self._bus.request(
                    ANSWERED_BY[type(question)], question, answer | Failed,  # type: ignore[arg-type]
                    timeout_s=max(0.1, min(each_s, left_s)),
                )
            except (NoResponder, BusTimeout) as error:
                if timeout_s is not None and time.monotonic() - begin > timeout_s:
                    raise UnhealthyError(f"the console does not answer ({error}): see `microclaw status`") from error
                if time.monotonic() - begin > AWAY_S:
                    self._tell(away=True)
                await asyncio.sleep(RETRY_S)
                continue
            self._tell(away=False)
            if isinstance(found, Failed):
                raise refusal(found)
            return found

    def _tell(self, *, away: bool) -> None:
        if away != self._away:
            self._away = away
            self._on_away(away)


class Seen:
    """The number of the last line that this chat's owner has seen, kept between two starts."""

    def __init__(self, home: Home, chat: str) -> None:
        self._path: Path = home.data / "chat" / chat.replace(":", "_")

    def load(self) -> int | None:
        """None = never looked."""
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def save(self, number: int) -> None:
        """Remember."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(number))
        fresh.replace(self._path)
