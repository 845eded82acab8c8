"""The types of the client interface. A second engine would implement exactly this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from microclaw.bus.envelope import Envelope

Answer = TypeVar("Answer")


class Draft(msgspec.Struct, frozen=True):
    """An envelope to be published: the broker gives it its `seq`, the client its `source`."""

    session_id: str
    #: A tagged msgspec struct; its tag is the kind. Or bytes: a payload already encoded.
    payload: msgspec.Struct | bytes
    #: 16 bytes; None = a fresh one. The same id with the same body is one message.
    message_id: bytes | None = None
    #: Unix ms; None = now.
    ts_ms: int | None = None
    device_id: str = ""
    #: Not delivered to any group before this moment (Unix ms, 0 = at once). It does not hold its session back: what
    #: comes after it goes first.
    not_before_ms: int = 0
    #: Not delivered after this moment (Unix ms, 0 = for ever). It keeps its place in the session for `replay`.
    expires_ms: int = 0
    #: Fencing: stored only if the session's last `seq` is this one (None = whatever it is). A repeat of a stored
    #: message is a repeat, not a conflict.
    expected_last_seq: int | None = None
    #: Handles of blobs that it refers to (`put_blob`): they are kept as long as the message is.
    blobs: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True):
    """The broker has it on disk."""

    message_id: bytes
    #: Its place in its session, from 1, dense.
    seq: int
    #: It was there before: `seq` is the first one's.
    duplicate: bool


class Delivery(msgspec.Struct, frozen=True):
    """One envelope given to this consumer. Settle it with exactly one of `ack`, `nack`, `term`; until then, and until
    `ack_wait_ms` is over, no other consumer of the group has it, and nothing later of its session is given to anyone
    in the group."""

    envelope: Envelope
    #: 1 at the first delivery. Counts survive the consumer; after a crash of the broker itself they may start anew.
    count: int
    #: Opaque to users: how the client names it to the broker.
    token: Any


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer group wants. Consumers of one `group` share the work; each group gets everything."""

    group: str
    #: Subjects; `*` stands for one segment, `>` at the end for one or more.
    kinds: tuple[str, ...]
    #: Only sessions that begin so (`console:`); "" = all.
    sessions: str = ""
    #: Given to this consumer and not settled, at most.
    max_in_flight: int = 64
    #: Not settled after this (monotonic clock) = given again.
    ack_wait_ms: int = 30_000
    #: Delivered so often without an ack: it goes to the dead letters (`dlq.<group>`).
    max_deliver: int = 10
    #: Pause before redelivery number 2, 3, …; the last one holds for the rest.
    backoff_ms: tuple[int, ...] = (0, 500, 2_000, 10_000, 30_000)
    #: Where a *new* group begins: `first` kept message, or `new` ones only.
    start: str = "first"
    #: One message of a session is out at a time, and the next when it is settled. False = as they come, also several of
    #: one session at once, whatever becomes of those before them.
    in_order: bool = True


class Deliveries(Protocol):
    """A subscription at work: `async for delivery in deliveries`. Cancelling a wait for the next one loses nothing."""

    def __aiter__(self) -> AsyncIterator[Delivery]: ...

    async def __anext__(self) -> Delivery: ...

    async def batch(self, limit: int) -> list[Delivery]:
        """What is there, at least one and at most so many; waits for the first. After `aclose`:
        StopAsyncIteration."""
        ...

    async def aclose(self) -> None:
        """Stop this subscription alone: what it was given and did not settle goes to the group's other consumers at
        once, which counts as no delivery. Whoever waits for the next one sees the end. An ack that comes later still
        counts."""
        ...


class Bus(Protocol):
    """A connection to the bus. All methods are safe to call from one event loop; none block it."""

    #: Who we are to the broker; the `source` of what we publish.
    name: str

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        """Put these on disk, all or none, in this order. Returns after the fsync.

        While the broker is away it waits and sends again (the broker knows repeats by their ids); with `timeout_s`
        it gives up with `BusTimeout`, and then whether they are on disk is unknown: publish the same ids again.

        :raises Refused: the broker will not take them (`too_big`, `denied`, `id_conflict`, `no_space`, …).
        """
        ...

    def subscribe(self, subscription: Subscription) -> Deliveries:
        """The group's messages as they come, from now until `close` (or its own `aclose`). Cancelling a wait for the
        next one loses nothing. After a reconnect what was not settled may come again.

        :raises Refused: at the first wait: this name may not read that.
        """
        ...

    async def ack(self, delivery: Delivery, *drafts: Draft) -> list[Receipt]:
        """Done: never deliver it again; and publish these in the same transaction, all or none.

        Returns after the fsync. When the connection broke and the delivery was meanwhile given to somebody else, the
        drafts are still published and the ack still counts (a late ack is an ack): drafts caused by a delivery have
        derived ids, so two workers doing it twice say it once.
        """
        ...

    async def ack_all(self, deliveries: Sequence[Delivery]) -> None:
        """Done with all of these, which causes nothing. Returns after the fsync; cancelled before, they may come
        again."""
        ...

    async def nack(self, delivery: Delivery, *, delay_ms: int | None = None, error: str = "") -> None:
        """Not now: deliver it again after `delay_ms` (None = the group's back-off)."""
        ...

    async def term(self, delivery: Delivery, reason: str) -> None:
        """Never: to the dead letters at once."""
        ...

    async def in_progress(self, delivery: Delivery) -> None:
        """Still at it: `ack_wait_ms` starts anew."""
        ...

    def replay(self, session_id: str, last_seen_seq: int) -> AsyncIterator[Envelope]:
        """Everything of a session after `last_seen_seq`, then live, no gap and no double.

        `seek` finds where to begin by time, or so many before the end.

        :raises ValueError: `last_seen_seq` is no place: it is below 0 or has more than 63 bits.
        :raises Gap: what follows `last_seen_seq` is no longer kept.
        :raises EpochMismatch: `last_seen_seq` is ahead of the journal (it was restored from a backup).
        """
        ...

    async def seek(self, session_id: str, *, since_ms: int = 0, last: int | None = None) -> int:
        """The `last_seen_seq` with which `replay` gives what was stored at or after `since_ms` (Unix ms, the broker's
        clock), and of that the `last` so many at most (None = all, 1 = a session's last message). What is no longer
        kept is left out.

        :raises ValueError: one of them is below 0 or has more than 63 bits.
        """
        ...

    async def request(
        self, service: str, question: msgspec.Struct, answer: type[Answer], *, timeout_s: float = 5.0
    ) -> Answer:
        """Ask a service, undurable. `answer` may be a union.

        :raises NoResponder: nobody of that name is connected, at once.
        :raises BusTimeout: no answer in time; whether it took effect is unknown.
        :raises NotAnswered: the service answered with a `Failed`, and that is not among the answers asked for.
        """
        ...

    async def serve(self, handler: Callable[[str, bytes], Awaitable[msgspec.Struct]]) -> None:
        """Answer requests to our name. `handler(asker's name, raw payload)`; what it raises the asker is told."""
        ...

    async def put_blob(self, data: bytes) -> str:
        """Keep a body that is too large for an envelope; returns its handle, made of its content, once it is on disk.
        Name the handle in a draft's `blobs`: a blob that no kept message refers to is deleted after a day.

        :raises Refused: `too_big` (64 MiB), or the broker keeps no blobs.
        """
        ...

    async def get_blob(self, handle: str) -> bytes:
        """What `put_blob` was given.

        :raises Refused: it is not kept, or not what its name says.
        """
        ...

    async def close(self) -> None:
        """Stop. What was delivered and not settled goes back at once."""
        ...


#: A consumer: settles by returning what to publish with the ack, or raising.
Handler = Callable[[Delivery], Awaitable[Sequence[Draft]]]
