"""What of a subscription lives in the client: deliveries on their way to the consumer, acks on their way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from microclaw.bus.api import Deliveries, Delivery, Subscription
from microclaw.bus.errors import Refused
from microclaw.bus.wire import Op


@dataclass(slots=True, eq=False)
class Stream(Deliveries):
    """A subscription at work."""

    sid: int
    subscription: Subscription
    #: Tells the broker that it is over.
    unsubscribe: Callable[[Stream], None]
    #: Came in and not taken yet; `Refused` when the broker will not have this subscription.
    queue: deque[Delivery | Refused] = field(default_factory=deque)
    #: Offsets handed out and not settled: a repeat of one of these is not a second delivery.
    open: set[int] = field(default_factory=set)
    #: Those who wait for the next one.
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)
    closed: bool = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery; cancelling the wait loses nothing."""
        if not self.queue:
            await self._filled()
        return self._taken()

    async def batch(self, limit: int) -> list[Delivery]:
        """See `Deliveries.batch`."""
        if not self.queue:
            await self._filled()
        taken = [self._taken()]
        while len(taken) < limit and self.queue and not isinstance(self.queue[0], Refused):
            taken.append(self._taken())
        return taken

    async def aclose(self) -> None:
        """See `Deliveries.aclose`."""
        self.closed = True
        self.queue.clear()
        self.open.clear()
        self.unsubscribe(self)
        waiters, self.waiters = self.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def forget(self) -> None:
        """The journal is another one: what is still to be done comes anew, under offsets that may be others'."""
        self.open = set()
        self.queue = deque(item for item in self.queue if isinstance(item, Refused))

    async def _filled(self) -> None:
        while not self.queue:
            if self.closed:
                raise StopAsyncIteration
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():
                    self.wake()  # we were woken and will not come: somebody else must
                raise

    def _taken(self) -> Delivery:
        item = self.queue.popleft()
        if isinstance(item, Refused):
            raise item
        return item

    def put(self, item: Delivery | Refused) -> None:
        """It came in."""
        self.queue.append(item)
        self.wake()

    def wake(self) -> None:
        """Wake as many who wait as there is something for."""
        free = len(self.queue)
        while free and self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def operation(self) -> list[Any]:
        """How the broker is told of it."""
        want = self.subscription
        return [Op.SUBSCRIBE, self.sid, want.group, list(want.kinds), want.sessions, want.max_in_flight,
                want.ack_wait_ms, want.max_deliver, list(want.backoff_ms), want.start,
                want.in_order]


class Token(msgspec.Struct, eq=False):
    """How the client names a delivery to the broker."""

    stream: Stream
    offset: int
    #: `Stream.open` as it was when this came.
    held: set[int]

    @property
    def offsets(self) -> list[int]:
        """What to say of it: the offset, or nothing since the journal is another one, where it is another message."""
        return [self.offset] if self.held is self.stream.open else []


@dataclass(slots=True)
class Acks:
    """Acks that are sent as one operation; each of them has somebody who waits for it."""

    operation: list[Any]
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def settle(self, answer: asyncio.Future[Any]) -> None:
        """All of them are on disk, or refused, or given up with the connection."""
        error = None if answer.cancelled() else answer.exception()
        for waiter in self.waiters:
            if waiter.done():
                continue
            if answer.cancelled():
                waiter.cancel()
            elif error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(None)
