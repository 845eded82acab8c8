"""A reply on its way over the real broker to a connector that fails, is away, or comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.contract.processes import DEADLINE_S, installation

from microclaw.bus.api import Draft, Subscription
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested

_WANTED = Subscription("console", ("reply.requested",), sessions="console:", backoff_ms=(0, 50))


@dataclass
class Seen:
    """What the connector saw and sent."""

    tries: int = 0
    sent: list[str] = field(default_factory=list)


async def refused_once() -> Seen:
    """The platform refuses the first try."""
    seen = Seen()
    async with installation("broker") as made:
        router, connector = [await made.connect(name) for name in ("router", "console")]
        await router.publish(_reply("one"))
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in connector.subscribe(_WANTED):
                seen.tries += 1
                if seen.tries == 1:
                    await connector.nack(delivery, error="the platform refused it")
                    continue
                seen.sent.append(delivery.envelope.read(ReplyRequested).text)
                await connector.ack(delivery)
                return seen
    raise AssertionError


async def sent_while_away(texts: list[str]) -> Seen:
    """No connector is there, and the broker is killed; then both come back."""
    seen = Seen()
    async with installation("broker") as made:
        router = await made.connect("router")
        await router.publish(*[_reply(text) for text in texts])
        made.kill("broker")
        made.start("broker")
        connector = await made.connect("console")
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in connector.subscribe(_WANTED):
                seen.tries += 1
                seen.sent.append(delivery.envelope.read(ReplyRequested).text)
                await connector.ack(delivery)
                if len(seen.sent) == len(texts):
                    return seen
    raise AssertionError


def _reply(text: str) -> Draft:
    return Draft("console:main", ReplyRequested(chat="console:main", text=text), message_id=new_id(1))
