"""The chat is shown that the agent is at work ("… is typing"), if it takes longer than a moment, and what it writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusError
from microclaw.core.channels import SHOW_WRITING
from microclaw.core.groups import channel_of
from microclaw.core.ids import new_id
from microclaw.core.kinds import PresenceChanged, RunGranted
from microclaw.core.text import being_written
from microclaw.core.worker import WRITING_CHARS_MAX, WRITING_EVERY_S

#: A quicker answer needs no announcement.
AFTER_S = 0.4
#: A run's end waits no longer than this for the word that it ended.
WAIT_S_MAX = 1.0
#: A sign of it is worth nothing later, and is given anew before that.
WORTH_MS = 60_000
AGAIN_S = 45.0

log = logging.getLogger("microclaw.sandbox")


class Presence:
    """Publishes `presence.changed`. Nothing ever depends on whether that works."""

    def __init__(self, bus: Bus, clock_ms: Callable[[], int]) -> None:
        self._bus = bus
        self._clock_ms = clock_ms

    @asynccontextmanager
    async def shown(self, grant: RunGranted) -> AsyncIterator[Callable[[str], None]]:
        """While the run is under way. Yields what is to be told the answer as it is written.

        What a task writes is not shown: it may be that there is nothing to say in the end.
        """
        if grant.task is not None and (grant.task.script or grant.task.is_heartbeat):
            # Mostly nothing is said at the end of these.
            yield lambda _text: None
            return
        written = _Written()
        showing = asyncio.create_task(self._compose(grant, written))
        shows = channel_of(grant.chat) in SHOW_WRITING and grant.task is None
        try:
            yield written.put if shows else lambda _text: None
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            if written.is_shown:
                await self._say(grant, "paused")

    async def _compose(self, grant: RunGranted, written: _Written) -> None:
        await asyncio.sleep(AFTER_S)
        written.is_shown = True
        while True:
            written.changed.clear()
            await self._say(grant, "composing", written.text)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await asyncio.sleep(WRITING_EVERY_S)
                    await written.changed.wait()

    async def _say(self, grant: RunGranted, state: Literal["composing", "paused"], draft: str = "") -> None:
        now = self._clock_ms()
        sign = PresenceChanged(
            chat=grant.chat, state=state, run_id=grant.run_id, expires_ms=now + WORTH_MS, draft=draft
        )
        try:
            await self._bus.publish(
                Draft(grant.chat, sign, message_id=new_id(now), ts_ms=now, expires_ms=now + WORTH_MS),
                timeout_s=WAIT_S_MAX,
            )
        except (BusError, OSError) as error:
            log.warning("presence can't be shown", extra={"run_id": grant.run_id, "why": str(error)})


class _Written:
    """The answer so far."""

    def __init__(self) -> None:
        self.text = ""
        self.changed = asyncio.Event()
        self.is_shown = False

    def put(self, text: str) -> None:
        """The worker's word, which may be anything."""
        self.text = being_written(text[:WRITING_CHARS_MAX])
        self.changed.set()
