"""A subscription can be closed on its own, and taken and settled in batches."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker_process import DEADLINE_S

from microclaw.bus import admin
from microclaw.bus.api import Bus, Deliveries, Draft, Subscription
from microclaw.core.kinds import ReplyRequested

#: Nothing is given back by time in these tests.
WORK = Subscription("work", ("reply.requested",), ack_wait_ms=600_000, max_in_flight=10)


def say(number: int) -> Draft:
    return Draft(f"s{number}", ReplyRequested(chat="s", text=str(number)))


async def taken(deliveries: Deliveries, count: int) -> list[str]:
    """So many of them, not settled."""
    texts: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(texts) < count:
            texts += [d.envelope.read(ReplyRequested).text for d in await deliveries.batch(count - len(texts))]
    return texts


async def group_of(owner: Bus) -> admin.GroupOfBus:
    (group,) = (await owner.request("broker", admin.GroupsOfBusAsked(name="work"), admin.GroupsOfBus)).groups
    return group


async def test_what_a_closed_subscription_held_goes_to_another_consumer_at_once_and_counts_as_no_delivery(
    connect,
) -> None:
    leaver, stayer = await connect("leaver"), await connect("cli")
    await leaver.publish(*(say(n) for n in range(10)))
    closing = leaver.subscribe(WORK)
    assert await taken(closing, 10) == [str(n) for n in range(10)]
    staying = stayer.subscribe(WORK)
    await closing.aclose()
    async with asyncio.timeout(DEADLINE_S):
        again = [await anext(staying) for _ in range(10)]
    assert sorted(d.envelope.read(ReplyRequested).text for d in again) == [str(n) for n in range(10)]
    assert {d.count for d in again} == {1}
    assert (await group_of(stayer)).consumers == ("cli",)


async def test_a_closed_subscription_ends_whoever_waits_for_it_and_leaves_the_connection_and_its_others_alone(
    connect,
) -> None:
    bus = await connect("alpha")
    closing = bus.subscribe(WORK)
    other = bus.subscribe(Subscription("other", ("reply.requested",)))
    waiting = asyncio.ensure_future(anext(closing))
    await bus.publish(say(0))
    delivery = await asyncio.wait_for(waiting, DEADLINE_S)
    waiting = asyncio.ensure_future(anext(closing))
    await asyncio.sleep(0)
    await closing.aclose()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, DEADLINE_S)
    assert [d async for d in closing] == []
    await closing.aclose()
    await bus.publish(say(1))
    assert await taken(other, 2) == ["0", "1"]
    # Late, and it counts: the same consumer may have been at work on it when it closed.
    await bus.ack(delivery)
    assert await taken(bus.subscribe(WORK), 1) == ["1"]


async def test_a_closed_subscription_stays_closed_over_a_restart_of_the_broker(broker, connect) -> None:
    owner, bus = await connect("cli"), await connect("alpha")
    closing, staying = bus.subscribe(WORK), bus.subscribe(Subscription("other", ("reply.requested",)))
    await bus.publish(say(0))
    await taken(staying, 1)
    await closing.aclose()
    broker.restart()
    await bus.publish(say(1))
    await taken(staying, 1)
    assert (await group_of(owner)).consumers == ()


async def test_a_batch_is_settled_as_a_whole(broker, connect) -> None:
    owner, bus = await connect("cli"), await connect("alpha")
    await bus.publish(*(say(n) for n in range(10)))
    deliveries = bus.subscribe(WORK)
    batch = []
    async with asyncio.timeout(DEADLINE_S):
        while len(batch) < 10:
            batch += await deliveries.batch(4)
    await bus.ack_all(batch)
    assert (await group_of(owner)).waiting == 0
    broker.restart()
    await bus.publish(say(10))
    assert await taken(deliveries, 1) == ["10"], "none of them comes again"
