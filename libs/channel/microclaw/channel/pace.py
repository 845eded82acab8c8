"""Not faster than a platform wants: one bucket for each chat, one for all together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from microclaw.core.token_bucket import Rate, TokenBucket

#: Chats whose buckets are remembered; full ones are forgotten beyond it.
CHATS_MAX = 1_000
#: A platform that says "wait" for longer is asked again after so long, seconds.
HOLD_S_MAX = 3600.0


class Pace:
    """Waits until one more message may go out."""

    def __init__(
        self, *, everywhere: Rate, chat: Rate, bucket: Callable[[str], tuple[str, Rate]] | None = None,
        clock_s: Callable[[], float] | None = None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`bucket`: what a chat's messages count for, and its rate, where these differ from chat to chat."""
        self._clock_s = clock_s or (lambda: asyncio.get_running_loop().time())
        self._sleep = sleep
        self._everywhere_rate = everywhere
        self._everywhere: TokenBucket | None = None
        self._bucket = bucket or (lambda name: (name, chat))
        self._chats: dict[str, TokenBucket] = {}

    async def wait(self, chat: str) -> None:
        """Until it is this chat's turn; takes the token."""
        while (pause := self._pause(chat)) > 0:
            await self._sleep(pause)

    def hold(self, seconds: float, chat: str = "") -> None:
        """The platform said that we are too fast: nothing to this chat ("" = to nobody) for so long."""
        now = self._clock_s()
        bucket = self._of(chat, now) if chat else self._all(now)
        bucket.hold(now, now + min(max(seconds, 0.0), HOLD_S_MAX))

    def _pause(self, chat: str) -> float:
        now = self._clock_s()
        everywhere, here = self._all(now), self._of(chat, now)
        pause = max(everywhere.wait_s(now), here.wait_s(now))
        if pause <= 0:
            everywhere.take(now)
            here.take(now)
        return pause

    def _all(self, now: float) -> TokenBucket:
        self._everywhere = self._everywhere or TokenBucket(self._everywhere_rate, now)
        return self._everywhere

    def _of(self, chat: str, now: float) -> TokenBucket:
        name, rate = self._bucket(chat)
        if name not in self._chats:
            if len(self._chats) >= CHATS_MAX:
                self._chats = {name: bucket for name, bucket in self._chats.items() if not bucket.is_full(now)}
            self._chats[name] = TokenBucket(rate, now)
        return self._chats[name]
