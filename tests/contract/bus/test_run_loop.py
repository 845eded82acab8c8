"""The run loop's settling of what a handler returns."""

from __future__ import annotations

import asyncio

from tests.broker_process import DEADLINE_S

from microclaw.bus import admin
from microclaw.bus.api import Delivery, Draft, Subscription
from microclaw.bus.service import Service
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.settings import Settings


def say(text: str, session: str, message_id: bytes | None = None) -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text), message_id=message_id)


async def test_a_redone_effect_that_says_otherwise_is_settled_by_the_first_word(broker, connect) -> None:
    bus, owner = await connect("worker"), await connect("cli")
    taken = new_id(5)
    await owner.publish(say("the first word", "effects", taken), say("cause", "causes"))
    handled = asyncio.Event()

    async def handler(_delivery: Delivery) -> list[Draft]:
        handled.set()
        # Its name is in the source, so the same id from another service is another content too.
        return [say("another word", "effects", taken)]

    service = Service("worker", Settings(), broker.home, bus)
    service.consume(Subscription("work", ("reply.requested",), sessions="causes"), handler)
    await asyncio.wait_for(handled.wait(), DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            (group,) = (await owner.request("broker", admin.GroupsOfBusAsked(), admin.GroupsOfBus)).groups
            if group.waiting == 0 and group.in_flight == 0 and group.lag == 0:
                break
            await asyncio.sleep(0.02)
    assert group.dead == 0, "settled, not buried"
    texts = []
    reader = owner.replay("effects", 0)
    texts.append((await asyncio.wait_for(anext(reader), DEADLINE_S)).read(ReplyRequested).text)
    assert texts == ["the first word"]
    for task in list(service._tasks):
        task.cancel()
    await asyncio.gather(*service._tasks, return_exceptions=True)


async def test_an_effect_too_big_for_the_bus_is_buried_and_the_service_goes_on(broker, connect) -> None:
    bus, owner = await connect("worker"), await connect("cli")
    handled: list[str] = []

    async def handler(delivery: Delivery) -> list[Draft]:
        handled.append(text := delivery.envelope.read(ReplyRequested).text)
        return [say("x" * (2 << 20), "effects")] if text == "much" else []

    await owner.publish(say("much", "causes"), say("next", "causes"))
    service = Service("worker", Settings(), broker.home, bus)
    service.consume(Subscription("work", ("reply.requested",), sessions="causes"), handler)
    async with asyncio.timeout(DEADLINE_S):
        while handled != ["much", "next"]:
            assert not service.stopping.is_set(), service._failure
            await asyncio.sleep(0.02)
        while True:
            (group,) = (await owner.request("broker", admin.GroupsOfBusAsked(), admin.GroupsOfBus)).groups
            if group.dead == 1 and group.in_flight == 0:
                break
            await asyncio.sleep(0.02)
    for task in list(service._tasks):
        task.cancel()
    await asyncio.gather(*service._tasks, return_exceptions=True)
