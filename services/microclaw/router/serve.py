"""The router's wiring."""

from __future__ import annotations

import asyncio
import contextlib

from microclaw.bus.api import Subscription
from microclaw.bus.service import Service, now_ms
from microclaw.core.requests import Deliver, GroupsAsked, ImportMessages, RegisterGroup, SearchMessages
from microclaw.router import commands, tables
from microclaw.router.history import History
from microclaw.router.inbound import Inbound
from microclaw.router.registry import Registry
from microclaw.router.searching import Searching
from microclaw.router.senders import Senders, list_path
from microclaw.router.sending import Sending
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS
from microclaw.store.outbox import Outbox

#: Chats that are handled at the same time; the order inside one chat is the bus's.
CHATS_AT_ONCE = 8
#: How often leftovers are published and old notes dropped.
TIDY_S = 60.0


async def serve(service: Service) -> None:
    """Take messages until the service is to stop."""
    engine = open_store(service.home.database("router"), HEADS["router"])
    outbox = Outbox(engine, tables.outbox, tables.inbox)
    registry = Registry(engine, service.home.groups, now_ms)
    senders = Senders(list_path(service.settings.senders.allowlist, service.home), service.trouble)
    inbound = Inbound(engine, outbox, service.bus, registry, service.settings.assistant.name, now_ms, senders)
    sending = Sending(engine, outbox, service.bus, now_ms)
    try:
        registry.make_folders()
        if problem := registry.ensure_main(service.settings.console.chat):
            service.trouble(problem)
        service.facts |= registry.facts()
        await outbox.flush_and_tell(service.bus, service.trouble)
        service.consume(
            Subscription("router", ("message.received",)), inbound.on_message,
            concurrency=CHATS_AT_ONCE, settled=outbox.settled,
        )
        service.answer(GroupsAsked, registry.on_list)
        service.answer(RegisterGroup, registry.on_register)
        service.answer(Deliver, sending.on_deliver)
        service.answer(ImportMessages, History(engine, registry).on_import)
        service.answer(SearchMessages, Searching(engine, registry).on_search)
        await service.ready()
        while not service.stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(service.stopping.wait(), TIDY_S)
            service.facts |= registry.facts()
            outbox.forget(now_ms=now_ms())
            commands.forget(engine, now_ms=now_ms())
            await outbox.flush_and_tell(service.bus, service.trouble)
    finally:
        engine.dispose()
