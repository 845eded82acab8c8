"""The connector as a process, between the real broker and the Bot API of `tests.fakes.telegram_server`."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from tests.broker_process import OPEN_BUS
from tests.contract.processes import DEADLINE_S, Installation, ask, installation
from tests.fakes.telegram_server import TelegramServer

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.service import now_ms
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked, SecretValue

BEGAN_MS = 1_700_000_000_000


@dataclass
class World:
    made: Installation
    server: TelegramServer
    #: The owner's bus.
    owner: Bus
    secret: list[str]
    #: What the connector said and nobody has looked at yet.
    received: asyncio.Queue[MessageReceived] = field(default_factory=asyncio.Queue)
    delivered: asyncio.Queue[ReplyDelivered] = field(default_factory=asyncio.Queue)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000))

    async def watch(self, bus: Bus) -> None:
        """Collect what it says; nothing may be said twice."""
        ids: set[bytes] = set()
        kinds = ("message.received", "reply.delivered")
        async for delivery in bus.subscribe(Subscription("watcher", kinds, max_in_flight=1)):
            assert delivery.envelope.message_id not in ids
            ids.add(delivery.envelope.message_id)
            if delivery.envelope.kind == "message.received":
                self.received.put_nowait(delivery.envelope.read(MessageReceived))
            else:
                self.delivered.put_nowait(delivery.envelope.read(ReplyDelivered))
            await bus.ack(delivery)

    async def heard(self, count: int) -> list[MessageReceived]:
        """The next `message.received`, in the journal's order."""
        return [await asyncio.wait_for(self.received.get(), DEADLINE_S) for _ in range(count)]

    async def ends(self, count: int) -> dict[str, ReplyDelivered]:
        """The next `reply.delivered`, by reply id; fails if one comes twice."""
        found = [await asyncio.wait_for(self.delivered.get(), DEADLINE_S) for _ in range(count)]
        assert len({end.reply_id for end in found}) == count
        return {end.reply_id: end for end in found}

    async def answer(self, text: str, chat: str = "telegram:7", **more: object) -> ReplyDelivered:
        """Have this said and wait for its end."""
        await self.owner.publish(reply(next(self.numbers), text, chat, **more))
        [end] = (await self.ends(1)).values()
        return end

    def clear(self) -> None:
        """Nothing that an earlier test did is in the way."""
        self.server.sent.clear()
        self.server.calls.clear()
        self.server.drafts.clear()
        self.server.faults.clear()
        self.server.breaks_after.clear()
        while not self.received.empty():
            self.received.get_nowait()
        while not self.delivered.empty():
            self.delivered.get_nowait()

    async def status(self) -> ChannelStatus:
        return await ask(self.owner, "telegram", ChannelStatusAsked(), ChannelStatus)


def reply(number: int, text: str, chat: str = "telegram:7", **more: object) -> Draft:
    wanted = ReplyRequested(chat=chat, text=text, **more)
    return Draft(chat, wanted, message_id=derived_id(BEGAN_MS, chat, number), ts_ms=now_ms())


@asynccontextmanager
async def telegram(
    chance: random.Random | None = None, *, media_max_mb: int = 20, start: bool = True
) -> AsyncIterator[World]:
    """Everything, running."""
    server = await TelegramServer(chance).start()
    secret = [server.token]

    async def tell_secret(_asker: str, _question: bytes) -> msgspec.Struct:
        return SecretValue(value=secret[0])

    try:
        async with installation() as made:
            made.home.config.write_text(
                f"{OPEN_BUS}\n[assistant]\nprefix = false\n[channels]\nmedia_max_mb = {media_max_mb}\n"
                f'[channels.telegram]\nenabled = true\napi_url = "{server.url}"\n'
            )
            made.start("broker")
            await (await made.connect("egress")).serve(tell_secret)
            if start:
                made.start("telegram")
            world = World(made, server, await made.connect("cli"), secret)
            watching = asyncio.create_task(world.watch(await made.connect("watcher")))
            yield world
            watching.cancel()
    finally:
        await server.stop()
