"""Faults 11, 13 to 16, 18, 21 and 24: what clients do to the broker and to each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.broker_process import DEADLINE_S, BrokerProcess
from tests.contract.bus.raw_client import Raw
from tests.engine_alone import envelope

from microclaw.broker.serve import DESCRIPTORS_WANTED
from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.client import connect as connect_to
from microclaw.bus.envelope import ENVELOPE_BYTES_MAX
from microclaw.bus.errors import BusTimeout, EnvelopeTooBig, Refused
from microclaw.bus.wire import FRAME_BYTES_MAX, PROTOCOL, Op, encode_frame
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested

linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory and limits of a process are seen in /proc")
#: What the broker may grow by while somebody abuses it, bytes.
GROWTH_BYTES_MAX = 120 << 20
WORK = Subscription("work", ("reply.requested",))


def say(text: str, session: str = "s") -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text))


def memory(broker: BrokerProcess) -> int:
    """Bytes in memory now."""
    assert broker.process is not None
    with open(f"/proc/{broker.process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def prompt(bus: Bus, limit_s: float = 5.0) -> None:
    """Another client is served as if nothing were."""
    await bus.publish(say("x", "others"), timeout_s=limit_s)


SLOW = """
import sys, time, zmq, os
from microclaw.bus.wire import *
s = zmq.Context().socket(zmq.DEALER)
s.connect(sys.argv[1])
s.send(encode_frame([[Op.HELLO, PROTOCOL, "slow", b"slow"],
    [Op.SUBSCRIBE, 1, "slow", ["reply.requested"], "", 64, 600000, 10, [0], "first", True]]
    + [[Op.REPLAY, 100 + n, "big", 0, 1000, 0] for n in range(200)]))
print("said", flush=True)
time.sleep(600)
"""


@linux
async def test_ac35_fault11_a_consumer_that_does_not_read_costs_bounded_memory_and_nobody_else_notices(
    broker, connect
) -> None:
    bus = await connect("alpha")
    for _ in range(40):
        await bus.publish(*(say("x" * 100_000, "big") for _ in range(5)))
    before = memory(broker)
    slow = subprocess.Popen([sys.executable, "-c", SLOW, broker.home.bus], stdout=subprocess.PIPE)
    assert slow.stdout is not None
    try:
        assert slow.stdout.readline() == b"said\n"
        most = 0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            await prompt(bus)
            most = max(most, memory(broker) - before)
        assert most < GROWTH_BYTES_MAX, f"{most >> 20} MB"
    finally:
        slow.kill()
        slow.wait()
        slow.stdout.close()


async def test_fault13_poison_is_a_dead_letter_even_if_it_kills_whoever_reads_it(broker, connect, tmp_path) -> None:
    bus = await connect("alpha")
    await bus.publish(say("poison"), say("next"))
    wants = Subscription("work", ("reply.requested",), max_deliver=3, backoff_ms=(0,))
    for expected in (1, 2, 3):
        victim = await broker.bus(f"victim{expected}")
        delivery = await asyncio.wait_for(anext(victim.subscribe(wants)), DEADLINE_S)
        assert (delivery.envelope.read(ReplyRequested).text, delivery.count) == ("poison", expected)
        await victim.nack(delivery, error=f"died {expected}")
        await victim.publish(say("said", "elsewhere"))
        await victim.close()
        broker.restart(signal.SIGKILL)
    last = bus.subscribe(wants)
    delivery = await asyncio.wait_for(anext(last), DEADLINE_S)
    assert delivery.envelope.read(ReplyRequested).text == "next"


async def test_fault14_a_message_over_the_limit_is_refused_and_its_sender_goes_on(connect) -> None:
    bus = await connect("alpha")
    with pytest.raises((Refused, EnvelopeTooBig), match="limit"):
        await bus.publish(say("x" * (1 << 20)))
    await prompt(bus)


async def test_fault14_a_frame_over_the_limit_costs_its_sender_the_connection_only(broker, connect) -> None:
    """Not for what is in it: each of these would be welcome by itself."""
    bus = await connect("alpha")
    raw = Raw(broker.home.bus, "big")
    each = [envelope("big", "big", new_id(1), text="x" * 900_000) for _ in range(FRAME_BYTES_MAX // 900_000 + 1)]
    raw.send([[Op.PUBLISH, number, [body]] for number, body in enumerate(each)])
    # A second frame after it: the connection was cut, and the next one has to greet first.
    raw.send([[Op.PUBLISH, 99, [envelope("big", "big", new_id(1))]]])
    await prompt(bus)
    assert raw.receive() == [[Op.UNKNOWN]]
    raw.close()
    assert broker.process.poll() is None


async def test_fault14_the_largest_messages_are_replayed_and_delivered_to_one_client_that_wants_all_at_once(
    connect,
) -> None:
    writer, reader = await connect("alpha"), await connect("reader")
    room = ENVELOPE_BYTES_MAX - len(envelope("alpha", "s", new_id(1), text="x" * 70_000)) + 70_000
    largest = msgspec.msgpack.encode({"kind": "reply.requested", "chat": "s", "text": "x" * room})
    for number in range(17):
        await writer.publish(Draft(f"t{number}", ReplyRequested(chat="s", text="x" * 900_000)))
        await writer.publish(Draft("s", largest))
    streams = [reader.subscribe(Subscription(f"g{n}", ("reply.requested",))) for n in range(17)]
    for stream in streams:
        delivery = await asyncio.wait_for(anext(stream), DEADLINE_S)
        assert delivery.count == 1, "no frame was so large that it cut the connection"
    async with asyncio.timeout(DEADLINE_S):
        assert [(await anext(page)).seq for page in [reader.replay("s", 0)] for _ in range(17)] == list(range(1, 18))


async def test_fault14_an_oversized_envelope_in_a_frame_is_refused_by_the_broker_too(broker, connect) -> None:
    await connect("alpha")
    raw = Raw(broker.home.bus, "big")
    raw.send([[Op.PUBLISH, 7, [b"\0" * ((1 << 20) + 1)]]])
    assert [op[:3] for op in raw.receive() if op[0] == Op.REFUSED] == [[Op.REFUSED, 7, "too_big"]]
    raw.close()


@pytest.mark.parametrize("body", [
    b"", b"\xc1", b"\x98", envelope("raw", "s", new_id(1))[:-3], msgspec.msgpack.encode({"v": 1}),
    envelope("raw", "s", new_id(1)) + b"\0", b"\x91" * 5_000,
], ids=["empty", "never", "cut short", "truncated", "fields missing", "something after", "deep"])
async def test_fault15_garbage_in_an_envelope_is_refused_and_the_connection_lives(broker, connect, body) -> None:
    await connect("alpha")
    raw = Raw(broker.home.bus, "raw")
    raw.send([[Op.PUBLISH, 7, [body]]])
    assert [op[:3] for op in raw.receive()] == [[Op.REFUSED, 7, "malformed"]]
    raw.send([[Op.PUBLISH, 8, [envelope("raw", "s", new_id(1))]]])
    assert raw.receive() == [[Op.PUBLISH, 8, [1]]]
    raw.close()


async def test_fault15_an_unknown_version_is_named(broker, connect) -> None:
    await connect("alpha")
    raw = Raw(broker.home.bus, "raw")
    fields = msgspec.msgpack.decode(envelope("raw", "s", new_id(1)))
    raw.send([[Op.PUBLISH, 7, [msgspec.msgpack.encode(fields | {"v": 2})]]])
    assert raw.receive()[0][:3] == [Op.REFUSED, 7, "version"]
    raw.send([[Op.PUBLISH, 8, [msgspec.msgpack.encode(fields | {"later": 1})]]])
    assert raw.receive() == [[Op.PUBLISH, 8, [1]]], "a field of a later version is no error"
    raw.close()


@pytest.mark.parametrize("frame", [
    b"", b"\xc1", b"\x92", b"\x91\x90", encode_frame([[99]]), encode_frame([["x"]]), encode_frame([[Op.PUBLISH]]),
    encode_frame([[Op.ACK, 1, "g", 7, []]]), encode_frame([[Op.REPLAY, 1, 5, "x", None, 0]]),
    encode_frame([[Op.SUBSCRIBE, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]), encode_frame([[Op.PUBLISH, 1, 5]]),
    encode_frame([[Op.SUBSCRIBE, 1, "g", ["a"], "", "x", 1, 1, [], "new", True]]),
    encode_frame([[Op.NACK, "g", "x", "y", 5]]), encode_frame([[Op.REQUEST, 1, [], "x", b""]]),
    encode_frame([[Op.ACK, 1, ["g"], [1], []]]), encode_frame([[Op.ACK, 1, "g", ["x"], []]]),
    encode_frame([[Op.REPLAY, 1, "s", None, 5, 0]]), encode_frame([[Op.REPLAY, 1, "s", 1 << 63, 5, 0]]),
    encode_frame([[Op.PUBLISH, 1, [[envelope("raw", "s", new_id(1)), "x", 0, None]]]]),
    encode_frame([[Op.PUBLISH, 1, [[envelope("raw", "s", new_id(1)), 0, 1 << 63, None]]]]),
    encode_frame([[Op.PUBLISH, 1, [[envelope("raw", "s", new_id(1)), 0, 0, "x"]]]]),
    encode_frame([[Op.PUBLISH_EACH, "x", [envelope("raw", "s", new_id(1))]]]), encode_frame([[Op.PUBLISH_EACH, 1, 5]]),
    encode_frame([[Op.PUBLISH, [1], [envelope("raw", "s", new_id(1))]]]),
    encode_frame([[Op.PUBLISH, 1, [[10**12, 0, 0, None]]]]), encode_frame([[Op.ACK, 1, "garbage", [[1]], []]]),
    encode_frame([[Op.SUBSCRIBE, [1], "garbage", ["a"], "", 1, 1, 1, [], "new", True]]),
    encode_frame([[Op.PUBLISH, 1, [[b"", 0, 0]]]]), encode_frame([[Op.PUBLISH, {"a": 1}, [5]]]), b"\x91" * 20_000,
])
async def test_fault15_garbage_instead_of_operations_kills_nobody(broker, connect, frame) -> None:
    bus = await connect("alpha")
    bus.subscribe(Subscription("garbage", ("reply.requested",)))
    await prompt(bus)
    for greeted in (True, False):
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.home.bus)
        if greeted:
            socket.send(encode_frame([[Op.HELLO, PROTOCOL, "raw", b"raw"]]))
            assert socket.poll(DEADLINE_S * 1000)
            socket.recv()
        socket.send(frame)
        socket.send(encode_frame([[Op.PING]]))
        assert socket.poll(DEADLINE_S * 1000)
        await prompt(bus)
        socket.close()
    assert broker.process.poll() is None


FLOOD = """
import sys, time, zmq, os
sys.path.insert(0, os.getcwd())
from tests.engine_alone import envelope
from microclaw.core.ids import new_id
from microclaw.bus.wire import *
s = zmq.Context().socket(zmq.DEALER)
s.setsockopt(zmq.SNDHWM, 100000)
s.connect(sys.argv[1])
s.send(encode_frame([[Op.HELLO, PROTOCOL, "flood", b"flood"]]))
text = "x" * 200_000
n = 0
while True:
    n += 1
    s.send(encode_frame([[Op.PUBLISH, n, [envelope("flood", "flood", new_id(1), text=text)]]]))
    if n == 20:
        print("said", flush=True)
"""


@linux
async def test_fault16_a_flood_is_slowed_costs_bounded_memory_and_starves_nobody(broker, connect) -> None:
    bus = await connect("alpha")
    await prompt(bus)
    before = memory(broker)
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, broker.home.bus], stdout=subprocess.PIPE)
    assert flood.stdout is not None
    try:
        await asyncio.to_thread(flood.stdout.readline)
        most, served = 0, 0
        until = time.monotonic() + 4
        while time.monotonic() < until:
            await prompt(bus)
            served += 1
            most = max(most, memory(broker) - before)
        assert served >= 5, "nobody starves"
        assert most < GROWTH_BYTES_MAX, f"{most >> 20} MB"
    finally:
        flood.kill()
        flood.wait()
        flood.stdout.close()


async def test_fault18_two_consumers_of_one_durable_name_share_and_nothing_goes_to_both(connect) -> None:
    one, two = await connect("same"), await connect("same")
    streams = [bus.subscribe(WORK) for bus in (one, two)]
    seen: list[tuple[int, str]] = []

    async def consume(who: int, bus: Bus) -> None:
        async for delivery in streams[who]:
            seen.append((who, delivery.envelope.read(ReplyRequested).text))
            await bus.ack(delivery)

    work = [asyncio.create_task(consume(n, bus)) for n, bus in enumerate((one, two))]
    await asyncio.sleep(0)
    for batch in range(20):
        await one.publish(*(say(f"{batch}-{n}", f"s{n}") for n in range(10)))
    async with asyncio.timeout(DEADLINE_S):
        while len(seen) < 200:
            await asyncio.sleep(0.01)
    for task in work:
        task.cancel()
    assert len({text for _, text in seen}) == len(seen) == 200
    assert {who for who, _ in seen} == {0, 1}


@linux
async def test_fault21_the_broker_takes_as_many_descriptors_as_it_may(broker, connect) -> None:
    await connect("alpha")
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(ours[0], 1_000), ours[1]))
    try:
        # It begins with few, as on most desktops.
        broker.restart()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)
    await connect("beta")
    soft, hard = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
    assert soft == (DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED))


async def test_fault21_a_broker_that_ends_for_want_of_descriptors_loses_nothing(broker, connect) -> None:
    """libzmq ends the process when accept() on a Unix socket finds no descriptor; supervisord starts it anew."""
    bus = await connect("alpha")
    pid = broker.process.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, used + 6))
    crowd: list[Bus] = []
    sent = 0
    for number in range(20):
        if broker.process.poll() is not None:
            break
        await bus.publish(say(str(number), "s"))
        sent += 1
        with contextlib.suppress(BusTimeout):
            crowd.append(await connect_to(broker.home.bus, f"crowd{number}", timeout_s=0.5))
    if broker.process.poll() is not None:
        broker.start()
    await bus.publish(say("after", "s"))
    texts = []
    async with asyncio.timeout(DEADLINE_S):
        async for envelope in bus.replay("s", 0):
            texts.append(envelope.read(ReplyRequested).text)
            if texts[-1] == "after":
                break
    assert texts == [*(str(n) for n in range(sent)), "after"]
    for member in crowd:
        await member.close()


async def test_ac35_fault24_a_dead_subscriber_of_a_fan_out_holds_nobody_up(broker, connect, tmp_path: Path) -> None:
    bus = await connect("alpha")
    dead = await broker.bus("dead")
    dead.subscribe(Subscription("dead", ("reply.requested",)))
    await dead.publish(say("it is subscribed", "elsewhere"))
    await dead.close()
    wants = [Subscription(f"g{n}", ("reply.requested",), sessions="s", start="new") for n in range(3)]
    streams = [(await connect(want.group)).subscribe(want) for want in wants]
    await asyncio.sleep(0)
    for _ in range(3):
        await bus.publish(say("warm", "elsewhere"))
    started = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.2)
    await bus.publish(*(say(str(n), f"s{n}") for n in range(50)))
    for first, stream in zip(started, streams, strict=True):
        texts = [(await asyncio.wait_for(first, DEADLINE_S)).envelope.read(ReplyRequested).text]
        for _ in range(49):
            texts.append((await asyncio.wait_for(anext(stream), DEADLINE_S)).envelope.read(ReplyRequested).text)
        assert texts == [str(n) for n in range(50)]
    again = (await connect("dead")).subscribe(Subscription("dead", ("reply.requested",), max_in_flight=100))
    kept = [(await asyncio.wait_for(anext(again), DEADLINE_S)).envelope.session_id for _ in range(51)]
    assert len(set(kept)) == 51, "and finds everything when it comes back"
