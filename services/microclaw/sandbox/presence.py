"""The chat is shown that the agent is at work ("… is typing"), if it takes longer than a moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusError
from microclaw.core.ids import new_id
from microclaw.core.kinds import PresenceChanged, RunGranted

#: A quicker answer needs no announcement.
AFTER_S = 0.4
#: A run's end waits no longer than this for the word that it ended.
WAIT_S_MAX = 1.0
#: A sign of it is worth nothing later.
WORTH_MS = 60_000

log = logging.getLogger("microclaw.sandbox")


class Presence:
    """Publishes `presence.changed`. Nothing ever depends on whether that works."""

    def __init__(self, bus: Bus, clock_ms: Callable[[], int]) -> None:
        self._bus = bus
        self._clock_ms = clock_ms

    @asynccontextmanager
    async def shown(self, grant: RunGranted) -> AsyncIterator[None]:
        """While the run is under way. One that mostly finds nothing to say is not announced."""
        if grant.task is not None and (grant.task.script or grant.task.is_heartbeat):
            yield
            return
        begun = asyncio.Event()
        showing = asyncio.create_task(self._compose(grant, begun))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            if begun.is_set():
                await self._say(grant, "paused")

    async def _compose(self, grant: RunGranted, begun: asyncio.Event) -> None:
        await asyncio.sleep(AFTER_S)
        begun.set()
        await self._say(grant, "composing")

    async def _say(self, grant: RunGranted, state: Literal["composing", "paused"]) -> None:
        now = self._clock_ms()
        sign = PresenceChanged(chat=grant.chat, state=state, run_id=grant.run_id, expires_ms=now + WORTH_MS)
        try:
            await self._bus.publish(
                Draft(grant.chat, sign, message_id=new_id(now), ts_ms=now, expires_ms=now + WORTH_MS),
                timeout_s=WAIT_S_MAX,
            )
        except (BusError, OSError) as error:
            log.warning("presence can't be shown", extra={"run_id": grant.run_id, "why": str(error)})
