"""The router's wiring."""

from __future__ import annotations

import asyncio
import contextlib
import os

from microclaw.bus.api import Subscription
from microclaw.bus.service import Service, now_ms
from microclaw.bus.supervisor import Supervisor
from microclaw.core.people_requests import (
    AnswerPairing,
    ChangeUser,
    DeliveriesAsked,
    PairingsAsked,
    RemoveGroup,
    UsersAsked,
)
from microclaw.core.requests import (
    AwaitAnswer,
    Deliver,
    GroupsAsked,
    ImportMessages,
    ModelAsked,
    RegisterGroup,
    SearchMessages,
)
from microclaw.core.settings import load
from microclaw.router import commands, tables
from microclaw.router.awaiting import Awaiting
from microclaw.router.deliveries import Deliveries
from microclaw.router.door import Door
from microclaw.router.history import History
from microclaw.router.inbound import Inbound
from microclaw.router.models import Models
from microclaw.router.pace import Paces
from microclaw.router.people import People
from microclaw.router.registry import Registry
from microclaw.router.restarting import Restarting
from microclaw.router.searching import Searching
from microclaw.router.senders import Senders, list_path
from microclaw.router.sending import Sending
from microclaw.router.trail import Trail
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS
from microclaw.store.outbox import Outbox

#: Chats that are handled at the same time; the order inside one chat is the bus's.
CHATS_AT_ONCE = 8
#: How often leftovers are published and old notes dropped.
TIDY_S = 60.0
#: How often it is looked whether a group is to be woken late.
LATE_S = 1.0


async def serve(service: Service) -> None:
    """Take messages until the service is to stop."""
    settings = service.settings
    engine = open_store(service.home.database("router"), HEADS["router"])
    outbox = Outbox(engine, tables.outbox, tables.inbox)
    trail = Trail(outbox, service.bus, now_ms)
    registry = Registry(engine, service.home.groups, now_ms, trail)
    people = People(engine, registry, now_ms, trail)
    door = Door(
        engine, outbox, service.bus, registry, people, settings.assistant.name, now_ms,
        unknown=settings.senders.unknown,
    )
    paces = Paces(
        now_ms, per_sender_per_min=settings.senders.per_sender_per_min,
        per_chat_per_min=settings.senders.per_chat_per_min,
    )
    senders = Senders(list_path(settings.senders.allowlist, service.home), service.trouble)
    restarting = Restarting(
        engine, outbox, service.bus, Supervisor(service.home.supervisor_socket), now_ms,
        check=lambda: load(service.home.config, os.environ),
    )
    inbound = Inbound(
        engine, outbox, service.bus, registry, settings.assistant.name, now_ms, senders, people=people, door=door,
        paces=paces, model=settings.model, restarting=restarting,
    )
    sending = Sending(engine, outbox, service.bus, now_ms)
    deliveries = Deliveries(engine, outbox, service.bus, registry, paces, now_ms)

    async def wake_late() -> None:
        while True:
            for cause in inbound.wake_late():
                await outbox.flush(service.bus, cause)
            await asyncio.sleep(LATE_S)

    try:
        registry.make_folders()
        if problem := registry.ensure_main(settings.console.chat):
            service.trouble(problem)
        service.facts |= registry.facts()
        await outbox.flush_and_tell(service.bus, service.trouble)
        service.consume(
            Subscription("router", ("message.received",)), inbound.on_message,
            concurrency=CHATS_AT_ONCE, settled=outbox.settled,
        )
        service.consume(Subscription("router.named", ("chats.named",)), inbound.on_named)
        service.consume(
            Subscription("router.delivered", ("reply.delivered",)), deliveries.on_delivered, settled=outbox.settled,
        )
        service.spawn(wake_late(), "wake late")
        service.spawn(restarting.keep(), "restart")
        service.answer(GroupsAsked, registry.on_list)
        service.answer(RegisterGroup, registry.on_register)
        service.answer(RemoveGroup, registry.on_remove)
        service.answer(Deliver, sending.on_deliver)
        service.answer(ImportMessages, History(engine, registry).on_import)
        service.answer(SearchMessages, Searching(engine, registry).on_search)
        service.answer(AwaitAnswer, Awaiting(engine, registry, now_ms).on_await)
        service.answer(ModelAsked, Models(engine).on_asked)
        service.answer(PairingsAsked, door.on_list)
        service.answer(AnswerPairing, door.on_answer)
        service.answer(UsersAsked, people.on_list)
        service.answer(ChangeUser, people.on_change)
        service.answer(DeliveriesAsked, deliveries.on_list)
        await service.ready()
        while not service.stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(service.stopping.wait(), TIDY_S)
            service.facts |= registry.facts()
            outbox.forget(now_ms=now_ms())
            commands.forget(engine, now_ms=now_ms())
            registry.tidy()
            door.tidy()
            deliveries.tidy()
            await outbox.flush_and_tell(service.bus, service.trouble)
    finally:
        engine.dispose()
