"""A connector's connection to its platform: kept up for ever, its state told by evidence.

Quiet is not dead: whether the connection lives, the transport says (its heartbeat, a long poll that returns), never the
absence of messages. A connector never ends because its platform is down.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from microclaw.core.channels import RECONNECT_MAX_S, reconnect_delay_s

log = logging.getLogger("microclaw.channels")

#: How often the clocks are compared, and how far they may be apart before the machine counts as having slept.
SLEEP_CHECK_S = 5.0
SLEPT_S = 20.0
#: The pause after a connection that worked, seconds; it grows from failure to failure.
AGAIN_S = 1.0

State = Literal["connecting", "connected", "waiting", "logged_out"]


class Unreachable(Exception):
    """The platform can't be reached at present; `retry_after_s` where it said how long to wait."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(reason)


class LoggedOut(Exception):
    """Only the owner can mend this: a secret is missing or wrong. Tried again when it is set (`Link.renewed`), and now
    and then, since it may be mended elsewhere."""


class Link:
    """The state of the connection."""

    def __init__(self, channel: str, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self.channel = channel
        self.state: State = "connecting"
        self.since_ms = clock_ms()
        self.account = ""
        self.last_event_ms = 0
        #: In a row, since the platform last said anything but "welcome".
        self.failures = 0
        self.trouble = ""
        #: Set while connected: whoever sends waits for it.
        self.up = asyncio.Event()
        #: What the owner had to mend may be mended: the next try is at once.
        self.renewed = asyncio.Event()

    def connected(self, account: str) -> None:
        """The platform took us in."""
        self.account = account
        self.trouble = ""
        self.last_event_ms = self._clock_ms()
        self._to("connected")

    def event(self) -> None:
        """Something came from the platform: a message, a heartbeat, a poll's end. The connection works."""
        self.last_event_ms = self._clock_ms()
        self.failures = 0

    def lost(self, state: State, trouble: str) -> None:
        """Not connected any more."""
        self.trouble = trouble
        self._to(state)

    def _to(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.since_ms = self._clock_ms()
            log.info(state, extra={"channel": self.channel, "trouble": self.trouble})
        (self.up.set if state == "connected" else self.up.clear)()


async def keep_connected(
    link: Link, connect: Callable[[], Awaitable[None]], tell: Callable[[str], None], *,
    chance: Callable[[], float] = random.random, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call `connect` again and again, for ever; it stays as long as the connection holds, and calls `link.connected`.

    It raises `Unreachable` or `LoggedOut`, which make it wait; returning means "the platform closed it". Any other
    exception is logged with its trace and waited for too. `tell` is `Service.trouble`.
    """
    while True:
        link.lost("connecting", link.trouble)
        # Before the secret is asked for: one that is set meanwhile is worth another try.
        link.renewed.clear()
        pause_s = await _once(link, connect, tell, chance)
        if await _slept_during(_pause(link, sleep(pause_s))):
            log.info("the machine slept: connecting at once", extra={"channel": link.channel})


async def _once(
    link: Link, connect: Callable[[], Awaitable[None]], tell: Callable[[str], None], chance: Callable[[], float]
) -> float:
    """One connection. Returns the pause before the next, seconds."""
    try:
        if await _slept_during(connect()):
            link.lost("connecting", "the machine slept")
            return 0.0
        link.failures += 1
        link.lost("waiting", f"{link.channel} closed the connection")
    except LoggedOut as reason:
        link.failures += 1
        link.lost("logged_out", str(reason))
        tell(f"{link.channel}: {reason}")
        return RECONNECT_MAX_S
    except Unreachable as reason:
        link.failures += 1
        link.lost("waiting", str(reason))
        log.warning("not connected", extra={"channel": link.channel, "reason": str(reason)})
        if reason.retry_after_s is not None:
            return min(reason.retry_after_s, RECONNECT_MAX_S)
    except Exception as error:
        # Whatever a platform's library raises: this channel waits, the others go on.
        link.failures += 1
        link.lost("waiting", f"{type(error).__name__}: {error}")
        log.exception("the connection failed", extra={"channel": link.channel})
    if link.failures <= 1:
        return AGAIN_S * (1.0 - chance() / 2)
    return reconnect_delay_s(link.failures - 1, chance())


async def _pause(link: Link, pause: Awaitable[None]) -> None:
    """Ended early if something was mended."""
    ways = [asyncio.ensure_future(pause), asyncio.ensure_future(link.renewed.wait())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()


async def _slept_during(work: Awaitable[None]) -> bool:
    """Run it to its end; ended early if the machine slept meanwhile, since the connection is then dead and does not
    know it. Returns whether it did."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            wall_s, steady_s = time.time(), time.monotonic()
            done, _ = await asyncio.wait({task}, timeout=SLEEP_CHECK_S)
            if done:
                task.result()
                return False
            # The steady clock stands still while the machine sleeps, the wall clock goes on.
            if (time.time() - wall_s) - (time.monotonic() - steady_s) > SLEPT_S:
                return True
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
