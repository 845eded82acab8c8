"""The Discord connector against the fake Discord, over the real broker; egress is a stand-in that knows the token."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.contract.processes import Installation, ask, installation, until
from tests.fakes.discord_server import DiscordServer
from tests.fakes.discord_world import TOKEN

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.service import now_ms
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked, Failed, SecretValue

SENT_MS = 1_700_000_000_000


@dataclass
class Scene:
    made: Installation
    server: DiscordServer
    owner: Bus
    watcher: Bus
    numbers: Iterator[int] = field(default_factory=itertools.count)
    #: What the stand-in for egress answers; "" = there is no secret.
    token: str = TOKEN

    def __post_init__(self) -> None:
        # One of each for the whole scene: what a subscription fetched ahead it would keep.
        self._heard = self.watcher.subscribe(Subscription("router", ("message.received",)))
        self._ends = self.watcher.subscribe(Subscription("watcher", ("reply.delivered",)))
        self._seen: set[str] = set()

    async def heard(self, count: int, *, own: bool = False) -> list[MessageReceived]:
        """The next so many `message.received` in the order of the journal; our own ones only if asked for."""
        found: list[MessageReceived] = []
        while len(found) < count:
            delivery = await anext(self._heard)
            message = delivery.envelope.read(MessageReceived)
            await self.watcher.ack(delivery)
            if own or not message.is_own_reply:
                found.append(message)
        return found

    async def ends(self, count: int) -> list[ReplyDelivered]:
        """The next so many `reply.delivered`; fails if one comes twice."""
        found = []
        for _ in range(count):
            delivery = await anext(self._ends)
            found.append(delivery.envelope.read(ReplyDelivered))
            await self.watcher.ack(delivery)
            assert found[-1].reply_id not in self._seen
            self._seen.add(found[-1].reply_id)
        return found

    async def says(self, chat: int, text: str, **more: object) -> ReplyDelivered:
        """The assistant says something; returns when that has come to its end."""
        await self.owner.publish(reply(1_000 + next(self.numbers), text, chat, **more))
        return await self.end()

    async def end(self) -> ReplyDelivered:
        [record] = await self.ends(1)
        return record

    async def status(self) -> ChannelStatus:
        return await ask(self.owner, "discord", ChannelStatusAsked(), ChannelStatus)

    async def is_connected(self) -> bool:
        return (await self.status()).state == "connected"

    async def lost(self) -> bool:
        return not await self.is_connected()

    async def connected(self) -> None:
        await until(self.is_connected)

    async def killed(self) -> None:
        """kill -9 and a new one, connected."""
        self.made.kill("discord")
        self.made.start("discord")
        await self.connected()


@asynccontextmanager
async def discord(
    chance: random.Random | None = None, *, start: bool = True, heartbeat_ms: int = 5_000, media_max_mb: int = 20
) -> AsyncIterator[Scene]:
    """All of it, the connector connected unless `start` is False."""
    server = await DiscordServer(chance, heartbeat_ms=heartbeat_ms).start()
    try:
        async with installation("broker") as made:
            with made.home.config.open("a") as config:
                config.write(
                    f'\n[channels]\nmedia_max_mb = {media_max_mb}\n'
                    f'[channels.discord]\nenabled = true\napi_url = "{server.url}"\n'
                )
            scene = Scene(made, server, await made.connect("cli"), await made.connect("watcher"))

            async def answer(_asker: str, _question: bytes) -> SecretValue | Failed:
                return SecretValue(value=scene.token) if scene.token else Failed(reason="there is no secret discord")

            egress = await made.connect("egress")
            await egress.serve(answer)
            if start:
                made.start("discord")
                await scene.connected()
            yield scene
    finally:
        await server.stop()


def reply(number: int, text: str, channel: int, **more: object) -> Draft:
    """A reply to be sent; its number makes its id."""
    chat = f"discord:{channel}"
    wanted = ReplyRequested(chat=chat, text=text, **more)
    return Draft(chat, wanted, message_id=derived_id(SENT_MS, chat, number), ts_ms=now_ms())
