"""Replies on their way over the real broker to real connectors, whose platforms fail, are away, or come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.contract.processes import Installation, ask, installation, until
from tests.fakes.chirp_server import ChirpServer

from microclaw.bus.api import Bus, Draft
from microclaw.bus.service import now_ms
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked

_CHANNEL = "tg"
#: What the platform says at first: too fast, in so many seconds again; more often than anybody asks.
_REFUSED_S = 0.2
_REFUSED_COUNT = 10_000


@dataclass
class Seen:
    """What the platform was sent, and what its connector kept for it meanwhile."""

    sent: list[str] = field(default_factory=list)
    queued: int = 0


@dataclass
class Mesh:
    """A broker, and connectors with a platform each."""

    made: Installation
    bus: Bus
    platforms: dict[str, ChirpServer]

    async def say(self, chat: str, texts: Sequence[str]) -> None:
        await self.bus.publish(*[
            Draft(chat, ReplyRequested(chat=chat, text=text), message_id=new_id(now_ms())) for text in texts
        ])

    async def queued(self, channel: str) -> int:
        return (await ask(self.bus, channel, ChannelStatusAsked(), ChannelStatus)).queued

    async def has_queued(self, channel: str) -> None:
        """Wait until the connector keeps something for its platform."""
        async def is_kept() -> bool:
            return await self.queued(channel) > 0

        await until(is_kept)


@asynccontextmanager
async def mesh(channels: Collection[str] = (_CHANNEL,), away: Collection[str] = ()) -> AsyncIterator[Mesh]:
    """All connected but those whose platform is `away`."""
    platforms = {name: await ChirpServer().start() for name in channels}
    try:
        for name in away:
            await platforms[name].stop()
        async with installation("broker") as made:
            for name, platform in platforms.items():
                made.programs[name] = ["tests.fakes.chirp_connector", f"127.0.0.1:{platform.port}", name]
                made.start(name)
            yield Mesh(made, await made.connect("cli"), platforms)
    finally:
        for platform in platforms.values():
            await platform.stop()


async def refused_at_first() -> Seen:
    """The platform refuses to take it until the connection was broken."""
    async with mesh() as there:
        platform = there.platforms[_CHANNEL]
        platform.retry_after = [_REFUSED_S] * _REFUSED_COUNT
        await there.say(f"{_CHANNEL}:1", ["one"])
        await until(lambda: len(platform.retry_after) < _REFUSED_COUNT)
        queued = await there.queued(_CHANNEL)
        platform.retry_after = []
        platform.drop()
        await until(lambda: platform.welcomed > 1 and bool(platform.sent))
        return Seen(platform.texts(f"{_CHANNEL}:1"), queued)


async def sent_while_connected(texts: list[str]) -> Seen:
    async with mesh() as there:
        platform = there.platforms[_CHANNEL]
        await until(lambda: platform.is_connected)
        await there.say(f"{_CHANNEL}:1", texts)
        await until(lambda: len(platform.sent) == len(texts))
        return Seen(platform.texts(f"{_CHANNEL}:1"), await there.queued(_CHANNEL))


async def sent_while_away(texts: list[str], *, comes_back: bool, host_restarts: bool) -> Seen:
    """The platform can't be reached when these are said."""
    async with mesh(away=(_CHANNEL,)) as there:
        platform, programs = there.platforms[_CHANNEL], ("broker", _CHANNEL)
        await there.say(f"{_CHANNEL}:1", texts)
        await there.has_queued(_CHANNEL)
        queued = await there.queued(_CHANNEL)
        if host_restarts:
            for name in programs:
                there.made.kill(name)
        if comes_back or host_restarts:
            await platform.start()
        if host_restarts:
            for name in programs:
                there.made.start(name)
        if comes_back or host_restarts:
            await until(lambda: len(platform.sent) >= len(texts))
        return Seen(platform.texts(f"{_CHANNEL}:1"), queued)


async def taken_by(chat: str, channels: dict[str, bool]) -> tuple[str | None, str | None]:
    """Who sends a reply to this chat, and who keeps it for a platform that is away (`channels`: is it there?)."""
    away = [name for name, is_there in channels.items() if not is_there]
    async with mesh(channels, away) as there:
        await there.say(chat, ["hi"])
        found: dict[str, str] = {}

        async def is_taken() -> bool:
            for name, platform in there.platforms.items():
                if platform.sent:
                    found["by"] = name
                elif not channels[name] and await there.queued(name):
                    found["kept"] = name
            return bool(found)

        await until(is_taken)
        return found.get("by"), found.get("kept")
