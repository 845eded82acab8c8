"""Showing that the agent is at work, where a platform can: worth nothing after the moment, so never tried twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from microclaw.bus.api import Delivery, Draft
from microclaw.core.kinds import PresenceChanged

log = logging.getLogger("microclaw.channels")

#: One showing, at most, seconds.
SHOW_S_MAX = 5.0


class Typing:
    """Consumer of the channel's `presence.changed`."""

    def __init__(self, show: Callable[[str], Awaitable[None]], every_s: float, clock_ms: Callable[[], int]) -> None:
        """`show(chat)` lasts on the platform for a little more than `every_s`."""
        self._show = show
        self._every_s = every_s
        self._clock_ms = clock_ms
        self._chats: dict[str, asyncio.Task[None]] = {}

    async def on_presence(self, delivery: Delivery) -> list[Draft]:
        """Begin or end showing it."""
        presence = delivery.envelope.read(PresenceChanged)
        if (before := self._chats.pop(presence.chat, None)) is not None:
            before.cancel()
        if presence.state == "composing" and presence.expires_ms > self._clock_ms():
            task = asyncio.create_task(self._keep_showing(presence.chat, presence.expires_ms))
            self._chats[presence.chat] = task
        return []

    def answered(self, chat: str) -> None:
        """A message went out: the platform shows it no more."""
        if (task := self._chats.pop(chat, None)) is not None:
            task.cancel()

    async def _keep_showing(self, chat: str, until_ms: int) -> None:
        while self._clock_ms() < until_ms:
            try:
                async with asyncio.timeout(SHOW_S_MAX):
                    await self._show(chat)
            except Exception as error:  # noqa: BLE001 - whatever a platform's library raises; it is not worth more
                log.debug("typing not shown", extra={"chat": chat, "why": f"{type(error).__name__}: {error}"})
                return
            await asyncio.sleep(self._every_s)
