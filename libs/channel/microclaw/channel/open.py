"""A connector's parts, wired: what its `serve` works with.

    async def serve(service: Service) -> None:
        async with open_channel(service) as channel:
            platform = Chirp(channel)
            await channel.run(platform, platform.connect)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Engine

from microclaw.bus.api import Subscription
from microclaw.bus.service import Service, now_ms
from microclaw.channel import tables
from microclaw.channel.inbound import Inbound
from microclaw.channel.ledger import Ledger
from microclaw.channel.link import Link, keep_connected
from microclaw.channel.media import Media
from microclaw.channel.names import FetchNames, GroupNames
from microclaw.channel.notes import Notes
from microclaw.channel.outbound import Outbound
from microclaw.channel.platform import Platform
from microclaw.channel.preview import Preview, Previews
from microclaw.channel.secret import own_secret
from microclaw.channel.typing import Typing
from microclaw.core.delivery import Age, PartState
from microclaw.core.errors import UnhealthyError
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked, Done, SecretRenewed
from microclaw.store.engine import open_store
from microclaw.store.heads import CHANNEL_HEAD
from microclaw.store.migrate import version_of
from microclaw.store.outbox import Outbox

#: Chats that are served at the same time; the order inside one chat is the bus's. Many: who is slowed down waits here.
CHATS_AT_ONCE = 64
#: A reply waits for its platform as long as it must: it is never a dead letter for having waited.
DELIVER_COUNT_MAX = 1_000_000
#: How often leftovers are published and old rows dropped.
TIDY_S = 60.0
#: What is on its way at a stop may take so long to end.
DRAIN_S = 1.5


class Channel:
    """One connector's database, connection, way in and way out."""

    def __init__(self, service: Service, engine: Engine) -> None:
        settings = service.settings
        self.service = service
        #: Its name is the channel's: chats are `name:…`.
        self.name = service.name
        self.engine = engine
        self.notes = Notes(engine, tables.notes, now_ms)
        self.ledger = Ledger(engine, now_ms)
        self.outbox = Outbox(engine, tables.outbox, tables.inbox)
        self.link = Link(self.name, now_ms)
        self.inbound = Inbound(service.bus, self.notes)
        self.names = GroupNames(self.name, service.bus, self.notes, now_ms)
        self.media = Media(service.bus, settings.channels.media_max_mb << 20)
        self._age = Age(settings.channels.late_after_min * 60_000, settings.channels.expire_after_h * 3_600_000)

    async def secret(self) -> str:
        """The connector's own secret, as it is now. Raises `link.Unreachable`, `link.LoggedOut`."""
        return await own_secret(self.service.bus)

    async def run(
        self, platform: Platform, connect: Callable[[], Awaitable[None]], *,
        show_typing: Callable[[str], Awaitable[None]] | None = None, typing_every_s: float = 4.0,
        preview: Preview | None = None, group_names: FetchNames | None = None,
    ) -> None:
        """Until the service is to stop: stay connected by `connect` (`keep_connected`), send what is to be sent.

        `show_typing(chat)` and `preview` show that the agent is at work, and what it writes, where a platform can;
        `group_names()` asks it for its groups, once a day (where it tells by itself, `names.tell` is for that).
        """
        service, outbox = self.service, self.outbox
        previews = (
            Previews(preview, platform.limits, self.notes, service.settings.assistant, now_ms) if preview else None
        )
        outbound = Outbound(
            platform, self.ledger, self.engine, outbox, service.bus, self.link,
            assistant=service.settings.assistant, age=self._age, clock_ms=now_ms, stopping=service.stopping,
            previews=previews,
        )
        await outbox.flush_and_tell(service.bus, service.trouble)
        service.consume(
            Subscription(
                self.name, ("reply.requested",), sessions=f"{self.name}:", max_deliver=DELIVER_COUNT_MAX,
                max_in_flight=CHATS_AT_ONCE,
            ),
            outbound.on_reply, concurrency=CHATS_AT_ONCE, settled=outbox.settled,
        )
        if previews is not None:
            previews.start()
        if show_typing is not None:
            service.consume(
                Subscription(
                    f"{self.name}-typing", ("presence.changed",), sessions=f"{self.name}:", start="new", max_deliver=1
                ),
                Typing(show_typing, typing_every_s, now_ms, previews).on_presence, concurrency=8,
            )
        service.spawn(keep_connected(self.link, connect, service.trouble), "connection")
        if group_names is not None:
            service.spawn(self.names.keep(self.link, group_names), "names")
        service.answer(ChannelStatusAsked, self._on_status)
        service.answer(SecretRenewed, self._on_renewed)
        await service.ready()
        while not service.stopping.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(service.stopping.wait(), TIDY_S)
            outbox.forget(now_ms=now_ms())
            self.ledger.forget()
            if not service.stopping.is_set():
                await outbox.flush_and_tell(service.bus, service.trouble)
        await outbound.drain(DRAIN_S)

    async def _on_renewed(self, _question: SecretRenewed, _asker: str) -> Done:
        self.link.renewed.set()
        return Done()

    async def _on_status(self, _question: ChannelStatusAsked, _asker: str) -> ChannelStatus:
        link, counts = self.link, self.ledger.counts()
        return ChannelStatus(
            channel=self.name, state=link.state, since_ms=link.since_ms, account=link.account,
            last_event_ms=link.last_event_ms, failures=link.failures, trouble=link.trouble,
            queued=counts.get(PartState.PREPARED, 0) + counts.get(PartState.SENDING, 0),
            sent=counts.get(PartState.SENT, 0), failed=counts.get(PartState.FAILED, 0),
            uncertain=counts.get(PartState.UNCERTAIN, 0), expired=counts.get(PartState.EXPIRED, 0),
        )


@asynccontextmanager
async def open_channel(service: Service) -> AsyncIterator[Channel]:
    """The connector's parts; its database is made or migrated if need be.

    :raises UnhealthyError: the database can't be used.
    """
    path = service.home.database(service.name)
    if version_of(path) != CHANNEL_HEAD:
        await _migrate(service)
    engine = open_store(path, CHANNEL_HEAD)
    try:
        yield Channel(service, engine)
    finally:
        engine.dispose()


async def _migrate(service: Service) -> None:
    # In a process of its own: Alembic is large, and a connector lives for months.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "microclaw.store.migrate", "--channel", service.name,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    text = said.decode(errors="replace").strip()
    if process.returncode:
        raise UnhealthyError(text or f"{service.name}.db could not be migrated")
    service.log.info("database migrated", extra={"what": text})
