"""The peers' clients, each used as its documentation says: publish and wait for the acknowledgement; deliver, ack.

All of them are asyncio clients in Python. `publish` returns when the server has acknowledged; a publisher may have
several of them awaited at once. `consume` calls `on_message` for each body and acknowledges it to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from microclaw.bus.api import Draft, Subscription

#: Given to a consumer and not acknowledged, at most (in every engine that has such a bound).
IN_FLIGHT_MAX = 1_024
#: Taken from a queue at once, where the consumer asks for batches.
FETCH_MAX = 512

#: (session, body)
Message = tuple[str, bytes]
OnMessage = Callable[[bytes], None]
OnAcked = Callable[[int], None]


class Connection(Protocol):
    """One connection of a client."""

    async def publish(self, session: str, body: bytes) -> None:
        """Durable, as far as the engine promises it, when this returns."""
        ...

    async def publish_many(self, messages: list[Message]) -> None:
        """Several, sent without waiting in between, where the client has a way of its own for that."""
        ...

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:
        """For ever: take, tell, acknowledge, tell."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class Note(msgspec.Struct, tag="bench.note", tag_field="kind"):
    """The payload of our envelopes here."""

    body: bytes


class Ours:
    """`microclaw.bus`: one publish a call; deliveries acknowledged as they were taken, a batch at once."""

    windowed = False

    def __init__(self, bus: Any) -> None:
        self._bus = bus

    @classmethod
    async def connect(cls, address: str, name: str) -> Ours:
        from microclaw.bus.client import connect

        return cls(await connect(address, name, timeout_s=20))

    async def publish(self, session: str, body: bytes) -> None:
        await self._bus.publish(Draft(session, Note(body)))

    async def publish_many(self, messages: list[Message]) -> None:
        await self._bus.publish(*(Draft(session, Note(body)) for session, body in messages))

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:
        deliveries = self._bus.subscribe(Subscription(group, ("bench.note",), max_in_flight=IN_FLIGHT_MAX))
        while True:
            batch = await deliveries.batch(FETCH_MAX)
            for delivery in batch:
                on_message(delivery.envelope.read(Note).body)
            await self._bus.ack_all(batch)
            on_acked(len(batch))

    async def close(self) -> None:
        await self._bus.close()


class OursWindows(Ours):
    """The same with a window as one call, as Redis and PostgreSQL are given theirs."""

    windowed = True


class Bare(Ours):
    """A consumer of our bus that counts frames and acks each as a whole, with no object for a message: four
    interpreters that make them are more than two cores can run, and the fan-out is the broker's."""

    @classmethod
    async def connect(cls, address: str, name: str) -> Bare:
        client = _counting()(address, name)
        await asyncio.wait_for(client.connected(), 20)
        return cls(client)

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:  # noqa: ARG002
        self._bus.on_acked = on_acked
        self._bus.subscribe(Subscription(group, ("bench.note",), max_in_flight=IN_FLIGHT_MAX))
        await asyncio.Event().wait()


def _counting() -> Any:
    from microclaw.bus.client import Client
    from microclaw.bus.wire import Op

    class Counting(Client):
        on_acked: OnAcked

        def _on_deliver(
            self, sid: int, offsets: list[int], _seqs: list[int], _counts: list[int], _bodies: list[bytes]
        ) -> None:
            rid = self._rid()
            operation = [int(Op.ACK), rid, self._streams[sid].subscription.group, offsets, []]
            future = self._loop.create_future()
            future.add_done_callback(lambda _answer: self.on_acked(len(offsets)))
            self._calls[rid] = (operation, future)
            self._say(operation)

    return Counting


class Nats:
    """JetStream by nats-py: `js.publish` waits for the PubAck; a push consumer with explicit acks."""

    windowed = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._js = connection.jetstream(publish_async_max_pending=1 << 16)

    @classmethod
    async def connect(cls, address: str, name: str) -> Nats:
        import nats
        from nats.js.errors import BadRequestError

        self = cls(await nats.connect(address, name=name))
        with contextlib.suppress(BadRequestError):  # a connection before this one made it
            await self._js.add_stream(name="BENCH", subjects=["bench.>"])
        return self

    async def publish(self, session: str, body: bytes) -> None:
        await self._js.publish(f"bench.{session}", body)

    async def publish_many(self, messages: list[Message]) -> None:
        await asyncio.gather(*(self.publish(session, body) for session, body in messages))

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig

        async def on(message: Any) -> None:
            on_message(message.data)
            await message.ack()
            on_acked(1)

        await self._js.subscribe(
            "bench.>", durable=group, cb=on, manual_ack=True, pending_msgs_limit=-1, pending_bytes_limit=-1,
            config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=IN_FLIGHT_MAX),
        )
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self._connection.close()


class Redis:
    """Streams by redis-py: XADD, XREADGROUP, one XACK a batch. A window of several is one pipeline, on one connection:
    that is what redis-py offers for it, and faster than as many connections."""

    windowed = True

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def connect(cls, address: str, name: str) -> Redis:  # noqa: ARG003 - Redis connections need no name
        import redis.asyncio

        return cls(redis.asyncio.Redis(unix_socket_path=address))

    async def publish(self, session: str, body: bytes) -> None:  # noqa: ARG002 - one stream is one order
        await self._client.xadd("bench", {"b": body})

    async def publish_many(self, messages: list[Message]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for _, body in messages:
            pipe.xadd("bench", {"b": body})
        await pipe.execute()

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:
        await self._client.xgroup_create("bench", group, id="0", mkstream=True)
        while True:
            answer = await self._client.xreadgroup(group, "one", {"bench": ">"}, count=FETCH_MAX, block=1_000)
            # RESP2 gives a list of streams, RESP3 a map.
            streams = answer.items() if isinstance(answer, dict) else answer or ()
            for _, entries in streams:
                if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], tuple | list):
                    entries = entries[0]
                ids = []
                for entry_id, fields in entries:
                    on_message(fields[b"b"])
                    ids.append(entry_id)
                await self._client.xack("bench", group, *ids)
                on_acked(len(ids))

    async def close(self) -> None:
        await self._client.aclose()


class Postgres:
    """A table as a queue: INSERT and commit; DELETE … SKIP LOCKED … RETURNING is delivery and ack. A window of several
    is one pipeline of transactions."""

    windowed = True
    #: Between two looks at an empty table, seconds.
    POLL_S = 0.001

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, address: str, name: str) -> Postgres:  # noqa: ARG003
        import psycopg

        connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
        await connection.execute("SELECT pg_advisory_lock(1)")
        await connection.execute("CREATE TABLE IF NOT EXISTS jobs (id bigserial PRIMARY KEY, body bytea NOT NULL)")
        await connection.execute("SELECT pg_advisory_unlock(1)")
        return cls(connection)

    async def publish(self, session: str, body: bytes) -> None:  # noqa: ARG002
        await self._connection.execute("INSERT INTO jobs (body) VALUES (%s)", (body,))

    async def publish_many(self, messages: list[Message]) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO jobs (body) VALUES (%s)", [(body,) for _, body in messages])

    async def consume(self, group: str, on_message: OnMessage, on_acked: OnAcked) -> None:  # noqa: ARG002
        while True:
            cursor = await self._connection.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)"
                " RETURNING body", (FETCH_MAX,), binary=True,
            )
            rows = await cursor.fetchall()
            for (body,) in rows:
                on_message(bytes(body))
            if rows:
                on_acked(len(rows))
            else:
                await asyncio.sleep(self.POLL_S)

    async def close(self) -> None:
        await self._connection.close()


CLIENTS: dict[str, Any] = {
    "ours": Ours, "ours-windows": OursWindows, "bare": Bare, "nats": Nats, "redis": Redis, "postgres": Postgres,
}
