"""What only our bus is asked: fan-out, replay, a journal of ten million messages, a hundred subscribers."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.bus_clients import Note
from bench.bus_load import BODY_BYTES, Load
from bench.bus_servers import Server, start_ours

from microclaw.bus.api import Draft, Subscription
from microclaw.bus.calls import Call, Client
from microclaw.bus.client import connect
from microclaw.bus.envelope import encode_new
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow
from microclaw.bus.storing import UNFOLDED_MAX, Storage
from microclaw.core.home import home_from
from microclaw.core.ids import new_id

#: Messages in one publish call while a session is filled.
FILL_MESSAGES = 500
#: Sessions of a journal that is filled.
FILL_SESSIONS = 1_000
#: Rows in one transaction while a journal is filled.
FILL_ROWS = 20_480
#: Groups that a broker with a full journal has.
SUBSCRIBERS = 100
#: Messages that all of them are given before its memory is looked at.
SUBSCRIBED_MESSAGES = 1_000

Say = Callable[[str], None]


def fan_out(directory: Path, seconds: float, rounds: int, groups: int) -> tuple[float, float]:
    """Deliveries a second to one group and to `groups`, each on a broker of its own, rounds interleaved."""
    servers: list[Server] = []
    loads: list[Load] = []
    try:
        for number in (1, groups):
            home = directory / f"fan{number}"
            home.mkdir()
            servers.append(start_ours(home))
            loads.append(Load("ours", servers[-1].address, 8, number, consumer="bare"))
            loads[-1].run(8, 64, seconds / 3)
        rates: list[list[float]] = [[], []]
        for _ in range(rounds):
            for which, number in enumerate((1, groups)):
                rates[which].append(loads[which].run(8, 64, seconds).rate * number)
        return statistics.median(rates[0]), statistics.median(rates[1])
    finally:
        for load in loads:
            load.close()
        for server in servers:
            server.stop()


def replay_rate(directory: Path, messages: int, rounds: int) -> float:
    """Envelopes a second out of `Bus.replay`, from the first on; on a broker where nobody is still busy with them (a
    group that has one message of a session out at a time is, for a while)."""
    home = directory / "replay"
    home.mkdir()
    server = start_ours(home)
    try:
        return asyncio.run(_replay_rate(server.address, messages, rounds))
    finally:
        server.stop()


async def _replay_rate(address: str, messages: int, rounds: int) -> float:
    bus = await connect(address, "replayer", timeout_s=20)
    try:
        note = Note(bytes(BODY_BYTES))
        for _ in range(messages // FILL_MESSAGES):
            await bus.publish(*(Draft("bench:replay", note) for _ in range(FILL_MESSAGES)))
        rates = []
        for _ in range(rounds):
            begun = time.monotonic()
            left = messages // FILL_MESSAGES * FILL_MESSAGES
            stream: Any = bus.replay("bench:replay", 0)
            async for _envelope in stream:
                left -= 1
                if left == 0:
                    break
            rates.append(messages / (time.monotonic() - begun))
            await stream.aclose()
        return statistics.median(rates)
    finally:
        await bus.close()


def fill(path: Path, messages: int, say: Say) -> None:
    """A journal with so many messages, stored as the broker stores them, but in large transactions and without
    syncing."""
    journal = Journal(path, synchronous="OFF")
    storage = Storage(journal)
    client = Client(b"", "filler", b"", 0)
    sessions = [f"bench:old-{number}" for number in range(FILL_SESSIONS)]
    body = _stored_body()
    begun = time.monotonic()
    for first in range(0, messages, FILL_ROWS):
        now_ms = time.time_ns() // 1_000_000
        rows = [
            NewRow(new_id(now_ms), body, sessions[number % FILL_SESSIONS], "bench.note")
            for number in range(first, min(first + FILL_ROWS, messages))
        ]
        journal.begin()
        storage.store([Call(client, 0, rows)], now_ms)
        journal.commit()
        while storage.folding or storage.unfolded >= UNFOLDED_MAX:
            journal.begin()
            folded = storage.fold()
            journal.commit()
            storage.folded(folded)
        if first // FILL_ROWS % 50 == 49:
            say(f"filling: {first:,} rows, {first / (time.monotonic() - begun):,.0f}/s")
    journal.checkpoint("TRUNCATE")
    journal.close()


def _stored_body() -> bytes:
    return encode_new(1, "pub0", "", "bench:old-0", bytes(16), Note(bytes(BODY_BYTES)))


def full_journal(directory: Path, messages: int, seconds: float, rounds: int, say: Say) -> tuple[float, float, float]:
    """(publish rate on an empty journal, on one of so many messages, the latter broker's RSS in MB with a hundred
    groups subscribed)."""
    servers: list[Server] = []
    loads: list[Load] = []
    rates: list[list[float]] = [[], []]
    try:
        for name, size in (("empty", 0), ("full", messages)):
            home = directory / name
            home.mkdir()
            if size:
                place = home_from(os.environ | {"MICROCLAW_HOME": str(home / "home")})
                place.create()
                fill(place.data / "journal.db", size, say)
            servers.append(start_ours(home))
            loads.append(Load("ours", servers[-1].address, 8, groups=0))
            loads[-1].run(8, 64, seconds)
        for _ in range(rounds):
            for which in (0, 1):
                rates[which].append(loads[which].run(8, 64, seconds).rate)
        server = servers[1]
        asyncio.run(_subscribe_all(server.address))
        return statistics.median(rates[0]), statistics.median(rates[1]), asyncio.run(_rss_subscribed(server))
    finally:
        for load in loads:
            load.close()
        for server in servers:
            server.stop()


async def _subscribe_all(address: str) -> None:
    bus = await connect(address, "subscriber", timeout_s=20)
    for number in range(SUBSCRIBERS):
        bus.subscribe(Subscription(f"subscriber-{number}", ("bench.note",), start="new"))
    await bus.publish(Draft("bench:mark", Note(b"the groups are there when this is on disk")))
    await bus.close()


async def _rss_subscribed(server: Server) -> float:
    """Give every group some traffic; then what the broker has resident, MB."""
    bus = await connect(server.address, "subscriber", timeout_s=20)
    waiting = SUBSCRIBERS * SUBSCRIBED_MESSAGES
    done = asyncio.Event()

    async def consume(number: int) -> None:
        nonlocal waiting
        async for delivery in bus.subscribe(Subscription(f"subscriber-{number}", ("bench.note",), start="new")):
            await bus.ack(delivery)
            waiting -= 1
            if waiting <= 0:
                done.set()

    work = [asyncio.create_task(consume(number)) for number in range(SUBSCRIBERS)]
    for number in range(SUBSCRIBED_MESSAGES):
        await bus.publish(Draft(f"bench:{number % 50}", Note(bytes(BODY_BYTES))))
    async with asyncio.timeout(300):
        await done.wait()
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    await bus.close()
    return resident * 1024 / 1e6
