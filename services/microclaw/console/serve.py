"""The console connector's wiring."""

from __future__ import annotations

import asyncio
import contextlib

from microclaw.bus.api import Subscription
from microclaw.bus.service import Service, now_ms
from microclaw.console import tables
from microclaw.console.inbound import Inbound
from microclaw.console.outbound import Outbound
from microclaw.core.requests import Read, Say
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS
from microclaw.store.outbox import Outbox

#: Chats that are served at the same time; the order inside one chat is the bus's.
CHATS_AT_ONCE = 8
#: How often leftovers are published and old notes dropped.
TIDY_S = 60.0


async def serve(service: Service) -> None:
    """Take and show lines until the service is to stop."""
    engine = open_store(service.home.database("console"), HEADS["console"])
    outbox = Outbox(engine, tables.outbox, tables.inbox)
    inbound = Inbound(engine, service.bus, now_ms)
    outbound = Outbound(engine, outbox, service.bus, service.settings.assistant, now_ms)
    try:
        await outbox.flush_and_tell(service.bus, service.trouble)
        service.consume(
            Subscription("console", ("reply.requested",), sessions="console:"), outbound.on_reply,
            concurrency=CHATS_AT_ONCE, settled=outbox.settled,
        )
        service.answer(Say, inbound.on_say)
        service.answer(Read, outbound.on_read)
        await service.ready()
        while not service.stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(service.stopping.wait(), TIDY_S)
            outbox.forget(now_ms=now_ms())
            inbound.forget()
            await outbox.flush_and_tell(service.bus, service.trouble)
    finally:
        engine.dispose()
