"""The load: a process that publishes by P connections with W in flight each, and a process that consumes and acks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import struct
import time
from array import array
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.bus_clients import CLIENTS

#: Bytes of a message's body; its first eight say when it was published (monotonic ns, the same clock for all).
BODY_BYTES = 200
#: Each publisher spreads what it says over so many sessions in turn, as a connector does over its chats. Of a session
#: one message is out at a time in our bus (order under redelivery), which the peers have no notion of.
SESSIONS = 128
#: Objects between two looks for cycles, in the processes of all engines alike: thousands of tasks and futures are alive
#: here, and walking them again and again would be measured instead.
GC_OBJECTS = 50_000
#: Nothing here takes so long unless it is broken, seconds.
DEADLINE_S = 60.0

_spawn = multiprocessing.get_context("spawn")
_FILLING = bytes(BODY_BYTES - 8)


@dataclass(frozen=True)
class Measured:
    """One short run."""

    messages: int
    #: From the first publish until the last message was acknowledged by its consumer, seconds.
    elapsed_s: float
    ack_p50_us: float
    ack_p99_us: float
    deliver_p50_us: float

    @property
    def rate(self) -> float:
        """Messages a second, all the way."""
        return self.messages / self.elapsed_s


def percentile(values: array[float] | list[float], part: float) -> float:
    """The value below which `part` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def _body() -> bytes:
    return struct.pack("<q", time.monotonic_ns()) + _FILLING


def _sessions(number: int) -> Iterator[str]:
    return itertools.cycle([f"bench:{number}-{chat}" for chat in range(SESSIONS)])


async def _publish(connection: Any, sessions: Iterator[str], until: float, took: array[float]) -> None:
    while (begun := time.monotonic()) < until:
        await connection.publish(next(sessions), _body())
        took.append(time.monotonic() - begun)


async def _publish_windows(
    connection: Any, sessions: Iterator[str], width: int, until: float, took: array[float]
) -> None:
    while (begun := time.monotonic()) < until:
        await connection.publish_many([(next(sessions), _body()) for _ in range(width)])
        took.extend([time.monotonic() - begun] * width)


async def _publishing(pipe: Connection, client: str, address: str, connections_max: int) -> None:
    loop = asyncio.get_running_loop()
    kind = CLIENTS[client]
    connections = [await kind.connect(address, f"pub{number}") for number in range(connections_max)]
    sessions = [_sessions(number) for number in range(connections_max)]
    pipe.send("ready")
    while (order := await loop.run_in_executor(None, pipe.recv)) is not None:
        publishers, width, seconds = order
        took = array("d")
        begun = time.monotonic()
        until = begun + seconds
        work = []
        for number, connection in enumerate(connections[:publishers]):
            if kind.windowed and width > 1:
                work.append(_publish_windows(connection, sessions[number], width, until, took))
            else:
                work += [_publish(connection, sessions[number], until, took) for _ in range(width)]
        await asyncio.gather(*work)
        pipe.send((begun, time.monotonic(), len(took), percentile(took, 0.5), percentile(took, 0.99)))
    for connection in connections:
        await connection.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed (dependency group `bench`), for all engines alike."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _publisher(pipe: Connection, client: str, address: str, connections_max: int) -> None:
    gc.set_threshold(GC_OBJECTS)
    _run(_publishing(pipe, client, address, connections_max))


async def _consuming(pipe: Connection, client: str, address: str, group: str) -> None:
    loop = asyncio.get_running_loop()
    connection = await CLIENTS[client].connect(address, f"consumer-{group}")
    late: array[float] = array("d")
    acked = 0
    last = 0.0
    moved = asyncio.Event()

    def on_message(body: bytes) -> None:
        late.append((time.monotonic_ns() - struct.unpack_from("<q", body)[0]) / 1e9)

    def on_acked(number: int) -> None:
        nonlocal acked, last
        acked += number
        last = time.monotonic()
        moved.set()

    work = asyncio.create_task(connection.consume(group, on_message, on_acked))
    pipe.send("ready")
    while (wanted := await loop.run_in_executor(None, pipe.recv)) is not None:
        async with asyncio.timeout(DEADLINE_S):
            while acked < wanted:
                moved.clear()
                waiter = asyncio.create_task(moved.wait())
                await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                if work.done():
                    work.result()
        pipe.send((last, percentile(late, 0.5)))
        acked -= wanted
        del late[:]
    work.cancel()
    await asyncio.wait({work})
    await connection.close()


def _consumer(pipe: Connection, client: str, address: str, group: str) -> None:
    gc.set_threshold(GC_OBJECTS)
    _run(_consuming(pipe, client, address, group))


class Worker:
    """A process of the load, told what to do through a pipe."""

    def __init__(self, main: Any, *arguments: Any) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=main, args=(theirs, *arguments))
        self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """What it says next."""
        if not self._pipe.poll(DEADLINE_S):
            raise RuntimeError(f"a process of the load said nothing for {DEADLINE_S:g} s")
        return self._pipe.recv()

    def send(self, order: Any) -> None:
        """Tell it."""
        self._pipe.send(order)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):  # it failed, and has said why
            self._pipe.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


class Load:
    """Publishers and consumers on one server. `groups` of consumers get everything each."""

    def __init__(self, client: str, address: str, connections_max: int, groups: int = 1,
                 consumer: str = "") -> None:
        # First the consumers: they make the group (Redis gives a group nothing from before it).
        self._workers = [Worker(_consumer, consumer or client, address, f"group{number}") for number in range(groups)]
        try:
            for worker in self._workers:
                worker.receive()
            self._workers.append(Worker(_publisher, client, address, connections_max))
            self._workers[-1].receive()
        except BaseException:
            self.close()
            raise

    def run(self, publishers: int, width: int, seconds: float) -> Measured:
        """Publish for so long, and wait until all of it is consumed by every group."""
        *consumers, publisher = self._workers
        publisher.send((publishers, width, seconds))
        begun, ended, messages, ack_p50, ack_p99 = publisher.receive()
        for consumer in consumers:
            consumer.send(messages)
        ends = [consumer.receive() for consumer in consumers]
        return Measured(messages, max([ended, *(end for end, _ in ends)]) - begun, ack_p50 * 1e6, ack_p99 * 1e6,
                        percentile([late for _, late in ends], 0.5) * 1e6)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
