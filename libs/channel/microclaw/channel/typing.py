"""Showing that the agent is at work, where a platform can: worth nothing after the moment, so never tried twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from microclaw.bus.api import Delivery, Draft
from microclaw.channel.preview import Previews
from microclaw.core.kinds import PresenceChanged

log = logging.getLogger("microclaw.channels")

#: One showing, at most, seconds.
SHOW_S_MAX = 5.0


class Typing:
    """Consumer of the channel's `presence.changed`."""

    def __init__(
        self, show: Callable[[str], Awaitable[None]], every_s: float, clock_ms: Callable[[], int],
        previews: Previews | None = None,
    ) -> None:
        """`show(chat)` lasts on the platform for a little more than `every_s`. `previews` is told of all too."""
        self._show = show
        self._every_s = every_s
        self._clock_ms = clock_ms
        self._previews = previews
        #: Until when it is shown.
        self._until_ms: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def on_presence(self, delivery: Delivery) -> list[Draft]:
        """Begin, go on with or end showing it."""
        presence = delivery.envelope.read(PresenceChanged)
        chat = presence.chat
        if presence.state == "composing" and presence.expires_ms > self._clock_ms():
            self._until_ms[chat] = presence.expires_ms
            if chat not in self._tasks:
                self._tasks[chat] = asyncio.create_task(self._keep_showing(chat))
        elif presence.state == "paused" and (task := self._tasks.pop(chat, None)) is not None:
            del self._until_ms[chat]
            task.cancel()
        if self._previews is not None:
            self._previews.on_presence(presence)
        return []

    async def _keep_showing(self, chat: str) -> None:
        try:
            while self._clock_ms() < self._until_ms.get(chat, 0):
                async with asyncio.timeout(SHOW_S_MAX):
                    await self._show(chat)
                await asyncio.sleep(self._every_s)
        except Exception as error:  # noqa: BLE001 - whatever a platform's library raises; it is not worth more
            log.debug("typing not shown", extra={"chat": chat, "why": f"{type(error).__name__}: {error}"})
        finally:
            if self._tasks.get(chat) is asyncio.current_task():
                del self._tasks[chat], self._until_ms[chat]
