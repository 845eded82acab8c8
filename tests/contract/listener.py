"""A consumer group of one kind that stays subscribed for a whole test."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from tests.contract.processes import DEADLINE_S

from microclaw.bus.api import Bus, Subscription
from microclaw.core.kinds import Payload

Kind = TypeVar("Kind", bound=Payload)


class Listener(Generic[Kind]):
    """Takes envelopes of one kind as they come, and acknowledges them."""

    def __init__(self, bus: Bus, group: str, kind: type[Kind]) -> None:
        self._bus = bus
        self._kind = kind
        subject = str(kind.__struct_config__.tag)
        self._deliveries = bus.subscribe(Subscription(group, (subject,)))

    async def next(self) -> Kind:
        """The next one; fails if none comes."""
        # Generous: what a platform wants later may be a minute late.
        async with asyncio.timeout(2 * DEADLINE_S):
            delivery = await anext(self._deliveries)
        await self._bus.ack(delivery)
        return delivery.envelope.read(self._kind)

    async def take(self, count: int) -> list[Kind]:
        """So many, in order."""
        return [await self.next() for _ in range(count)]
