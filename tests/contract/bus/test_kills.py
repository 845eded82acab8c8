"""Whatever is killed when: nothing acknowledged is lost, nothing is done twice, order holds."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from tests.broker_process import DEADLINE_S, BrokerProcess

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.envelope import decode
from microclaw.bus.wire import SILENCE_S
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyDelivered, ReplyRequested


def say(text: str, session: str, message_id: bytes | None = None) -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text), message_id=message_id)


def journal_rows(broker: BrokerProcess) -> list[tuple[str, int, bytes]]:
    """(session, seq, id) of all that is stored, read from the file itself."""
    with sqlite3.connect(f"file:{broker.home.data / 'journal.db'}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT s.name, m.seq, m.body FROM messages m JOIN sessions s ON s.no = m.session"
                          " ORDER BY m.offset").fetchall()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return [(session, seq, decode(body).message_id) for session, seq, body in rows]


def start_consumer(
    broker: BrokerProcess, name: str, file: Path, mode: str, ack_wait_ms: int = 1_000
) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.contract.bus.consumer_process", broker.home.bus, name,
                             str(file), mode, str(ack_wait_ms)])


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def until(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        await asyncio.sleep(0.02)


async def test_fault01_broker_killed_under_load_loses_doubles_and_skips_nothing(broker: BrokerProcess) -> None:
    seed = random.Random(1)
    acknowledged: dict[bytes, tuple[str, int]] = {}
    stop = asyncio.Event()

    async def publisher(bus: Bus, session: str) -> None:
        while not stop.is_set():
            message_id = new_id(time.time_ns() // 1_000_000)
            (receipt,) = await bus.publish(say("x", session, message_id))
            assert message_id not in acknowledged
            acknowledged[message_id] = (session, receipt.seq)

    buses = [await broker.bus(f"p{n}") for n in range(4)]
    work = [asyncio.create_task(publisher(bus, f"s{n % 5}")) for n, bus in enumerate(buses * 8)]
    for _ in range(8):
        await asyncio.sleep(seed.uniform(0.05, 0.4))
        broker.restart(signal.SIGKILL)
        before = len(acknowledged)
        await until(lambda before=before: len(acknowledged) > before + 20, "publishing to go on after the kill")
    stop.set()
    await asyncio.wait_for(asyncio.gather(*work), DEADLINE_S)
    for bus in buses:
        await bus.close()
    broker.kill(signal.SIGTERM)
    stored = journal_rows(broker)
    by_id = {message_id: (session, seq) for session, seq, message_id in stored}
    assert len(by_id) == len(stored), "nothing doubled"
    assert all(by_id[message_id] == place for message_id, place in acknowledged.items()), "nothing lost or moved"
    places = defaultdict(list)
    for session, seq, _ in stored:
        places[session].append(seq)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in places.values()), "dense and rising"


async def test_fault03_a_killed_consumers_message_goes_to_another_at_once(broker, connect, tmp_path: Path) -> None:
    bus = await connect("alpha")
    await bus.publish(say("mine", "s"))
    # Not because its time is over: that is ten minutes off.
    holder = start_consumer(broker, "holder", tmp_path / "held", "hold", ack_wait_ms=600_000)
    await until(lambda: lines(tmp_path / "held"), "the first delivery")
    stream = bus.subscribe(Subscription("work", ("reply.requested",), ack_wait_ms=600_000, max_deliver=9))
    holder.kill()
    holder.wait()
    again = await asyncio.wait_for(anext(stream), DEADLINE_S)
    assert again.count == 2


@pytest.mark.parametrize("ack_wait_ms", [1_000, 600_000])
async def test_fault19_a_stopped_consumers_message_goes_to_another_after_ack_wait_or_by_its_silence(
    broker, connect, tmp_path, ack_wait_ms
) -> None:
    bus = await connect("alpha")
    await bus.publish(say("mine", "s"))
    holder = start_consumer(broker, "holder", tmp_path / "held", "hold", ack_wait_ms)
    try:
        await until(lambda: lines(tmp_path / "held"), "the first delivery")
        holder.send_signal(signal.SIGSTOP)
        wants = Subscription("work", ("reply.requested",), ack_wait_ms=ack_wait_ms, backoff_ms=(0,))
        stream = bus.subscribe(wants)
        again = await asyncio.wait_for(anext(stream), SILENCE_S + DEADLINE_S)
        assert again.count >= 2
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("victim", ["consumer", "broker", "both"])
async def test_fault03_fault04_effects_happen_once_and_in_order_whoever_dies(broker, connect, tmp_path, victim) -> None:
    seed, file, total = random.Random(7), tmp_path / "seen", 400
    bus = await connect("alpha")
    consumer = start_consumer(broker, "worker", file, "ack")
    publishing = asyncio.create_task(_publish_slowly(bus, total))
    kills = 8
    for _ in range(kills):
        # In the middle of its work, at another point of it each time.
        more = len(lines(file)) + seed.randrange(5, 40)
        await until(lambda more=more: len(lines(file)) >= more, "the consumer to be at work")
        await asyncio.sleep(seed.uniform(0, 0.01))
        if victim in ("consumer", "both"):
            consumer.kill()
            consumer.wait()
            consumer = start_consumer(broker, "worker", file, "ack")
        if victim in ("broker", "both"):
            broker.restart(signal.SIGKILL)
    await asyncio.wait_for(publishing, DEADLINE_S)
    seen: dict[str, list[str]] = {}
    for session in range(4):
        texts: list[str] = []
        async with asyncio.timeout(60):
            async for envelope in bus.replay(f"effects:s{session}", 0):
                texts.append(envelope.read(ReplyDelivered).reply_id)
                if len(texts) == total // 4:
                    break
        seen[f"s{session}"] = texts
    consumer.kill()
    consumer.wait()
    for session, texts in seen.items():
        assert texts == [f"{session}-{n}" for n in range(total // 4)], "each effect once, in the session's order"
    again = len(lines(file)) - total
    assert again <= kills * 2 * len(seen), "what was acknowledged never comes again: only what was out at a kill does"


async def _publish_slowly(bus: Bus, total: int) -> None:
    for number in range(total // 4):
        await bus.publish(*(say(f"s{session}-{number}", f"s{session}") for session in range(4)))
        await asyncio.sleep(0.01)


async def test_fault17_a_replay_goes_on_over_a_broker_restart_without_gap_or_double(broker, connect) -> None:
    bus = await connect("alpha")
    await bus.publish(*(say(str(n), "s") for n in range(1, 51)))
    seen = []
    async with asyncio.timeout(60):
        async for envelope in bus.replay("s", 0):
            seen.append(envelope.seq)
            if envelope.seq in (10, 30, 50):
                broker.restart(signal.SIGKILL)
                await bus.publish(say("more", "s"))
            if envelope.seq == 53:
                break
    assert seen == list(range(1, 54))


async def test_a_clean_stop_of_the_broker_leaves_nothing_open(broker, connect) -> None:
    bus = await connect("alpha")
    await bus.publish(say("x", "s"))
    assert broker.kill(signal.SIGTERM) == 0
    assert [seq for _, seq, _ in journal_rows(broker)] == [1]
