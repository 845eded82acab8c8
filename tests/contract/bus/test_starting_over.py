"""Client and broker that lost sight of each other: found by `microclaw prove`."""

from __future__ import annotations

import asyncio
import signal
import time

import msgspec
import zmq
import zmq.asyncio
from tests.broker_process import DEADLINE_S, BrokerProcess

from microclaw.bus import wire
from microclaw.bus.api import Draft, Subscription
from microclaw.bus.wire import Op
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.requests import GroupsAsked, ServiceStatus, StatusAsked


class Wire:
    """A client that says exactly what it is told to."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    async def say(self, *operations: list) -> None:
        await self.socket.send(wire.encode_frame(list(operations)))

    async def hear(self, op: Op) -> list:
        """The next operation of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for operation in wire.decode_frame(await self.socket.recv()):
                    if operation[0] == op:
                        return operation


async def test_a_client_that_starts_over_on_its_connection_is_greeted_again(broker: BrokerProcess) -> None:
    # Stopped for a while, it takes the broker for silent; the broker has noticed nothing.
    context = zmq.asyncio.Context()
    try:
        client = Wire(context, broker.home.bus)
        hello = [Op.HELLO, wire.PROTOCOL, "stopped", b"instance"]
        await client.say(hello)
        await client.hear(Op.HELLO)
        await client.say(hello)
        await client.hear(Op.HELLO)
    finally:
        context.destroy(linger=0)


async def test_fault19_a_client_stopped_for_longer_than_its_patience_works_again(broker: BrokerProcess) -> None:
    bus = await broker.bus("alpha")
    broker_pid = broker.process.pid
    assert broker_pid
    try:
        # The client's loop stands still, as if it had been stopped; the broker lives on.
        time.sleep(2.5)
        answer = await asyncio.wait_for(bus.request("broker", StatusAsked(), ServiceStatus, timeout_s=DEADLINE_S), 30)
        assert answer.pid == broker_pid
    finally:
        await bus.close()


async def test_an_answer_to_an_earlier_brokers_question_answers_no_other_question(broker: BrokerProcess) -> None:
    context = zmq.asyncio.Context()
    try:
        late, asker = Wire(context, broker.home.bus), Wire(context, broker.home.bus)

        async def connect() -> None:
            await late.say([Op.HELLO, wire.PROTOCOL, "late", b"late"], [Op.SERVE])
            await late.hear(Op.HELLO)
            await asker.say([Op.HELLO, wire.PROTOCOL, "asker", b"asker"])
            await asker.hear(Op.HELLO)

        question = msgspec.msgpack.encode(GroupsAsked())
        await connect()
        await asker.say([Op.REQUEST, 1, "late", 20_000, question])
        _, old, *_ = await late.hear(Op.ASKED)
        broker.restart(signal.SIGKILL)
        for client in (late, asker):
            client.socket.close()
        late, asker = Wire(context, broker.home.bus), Wire(context, broker.home.bus)
        await connect()
        await asker.say([Op.REQUEST, 2, "late", 20_000, question])
        _, new, *_ = await late.hear(Op.ASKED)
        assert new != old
        await late.say([Op.ANSWER, old, b"late"], [Op.ANSWER, new, b"right"])
        assert await asker.hear(Op.REQUEST) == [Op.REQUEST, 2, b"right"]
    finally:
        context.destroy(linger=0)


async def test_only_who_was_asked_can_answer(broker: BrokerProcess) -> None:
    context = zmq.asyncio.Context()
    try:
        asked, asker, thief = (Wire(context, broker.home.bus) for _ in range(3))
        for client, name in ((asked, "asked"), (asker, "asker"), (thief, "thief")):
            await client.say([Op.HELLO, wire.PROTOCOL, name, name.encode()])
            await client.hear(Op.HELLO)
        await asked.say([Op.SERVE])
        await asked.say([Op.PING])
        await asked.hear(Op.PING)
        await asker.say([Op.REQUEST, 1, "asked", 20_000, b"\x80"])
        _, number, *_ = await asked.hear(Op.ASKED)
        await thief.say([Op.ANSWER, number, b"forged"], [Op.PING])
        await thief.hear(Op.PING)
        await asked.say([Op.ANSWER, number, b"true"])
        assert await asker.hear(Op.REQUEST) == [Op.REQUEST, 1, b"true"]
    finally:
        context.destroy(linger=0)


async def test_what_was_given_out_of_an_earlier_journal_settles_nothing_in_this_one(
    broker: BrokerProcess, connect,
) -> None:
    """The owner made it anew, or put an older copy in its place, while a service was at work."""
    worker, publisher = await connect("worker"), await connect("publisher")
    stream = worker.subscribe(Subscription("group", ("reply.requested",)))
    held = []
    for text in ("acked", "in the way", "nacked"):
        await publisher.publish(Draft(f"before {text}", ReplyRequested(chat="s", text=text)))
        held.append(await asyncio.wait_for(anext(stream), DEADLINE_S))
    broker.kill()
    effect = Draft("effects", ReplyDelivered(chat="s", reply_id="", status="sent"))
    acking = asyncio.create_task(worker.ack(held[0], effect))
    await asyncio.sleep(0)  # it is said, and nobody is there to hear it
    for file in broker.home.data.glob("journal*"):
        file.unlink()
    broker.start()
    assert [receipt.seq for receipt in await asyncio.wait_for(acking, DEADLINE_S)] == [1], "the effect is there"
    for n in range(3):
        await publisher.publish(Draft(f"after {n}", ReplyRequested(chat="s", text=str(n))), timeout_s=DEADLINE_S)
    await worker.term(held[1], "never")
    await worker.nack(held[2])
    came = [await asyncio.wait_for(anext(stream), DEADLINE_S) for _ in range(3)]
    assert [delivery.envelope.session_id for delivery in came] == ["after 0", "after 1", "after 2"]
    assert {delivery.count for delivery in came} == {1}


async def test_an_ack_to_the_brokers_successor_settles_though_it_has_not_looked_at_the_message_yet(
    broker: BrokerProcess,
) -> None:
    context = zmq.asyncio.Context()
    subscribe = [Op.SUBSCRIBE, 1, "group", ["reply.requested"], "", 9, 60_000, 9, [0], "first", True]
    try:
        publisher = await broker.bus("publisher")
        await publisher.publish(*(Draft("s", ReplyRequested(chat="s", text=str(number))) for number in range(2)))
        await publisher.close()
        client = Wire(context, broker.home.bus)
        await client.say([Op.HELLO, wire.PROTOCOL, "consumer", b"consumer"])
        await client.hear(Op.HELLO)
        await client.say(subscribe)
        _, _, [first], *_ = await client.hear(Op.DELIVER)
        broker.restart(signal.SIGKILL)
        client.socket.close()
        client = Wire(context, broker.home.bus)
        await client.say([Op.HELLO, wire.PROTOCOL, "consumer", b"consumer"])
        await client.hear(Op.HELLO)
        # In one frame, as clients do that start over: the broker has looked at nothing when it reads the ack.
        await client.say(subscribe, [Op.ACK, 2, "group", [first], []])
        _, _, [second], *_ = await client.hear(Op.DELIVER)
        assert second > first, "what was acknowledged was given again"
    finally:
        context.destroy(linger=0)
