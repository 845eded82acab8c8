"""Who was given what: the small parts of a consumer group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from microclaw.bus.journal_schema import Parked


class Offered(Protocol):
    """What a group looks at of a message."""

    @property
    def offset(self) -> int: ...

    @property
    def session(self) -> int: ...

    @property
    def kind(self) -> int: ...

    @property
    def not_before_ms(self) -> int | None: ...


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """What a group subscribes to; kept in the journal as this array (`groups.spec`)."""

    kinds: tuple[str, ...]
    #: Of sessions whose name begins so.
    sessions: str
    ack_wait_s: float
    max_deliver: int
    #: Pauses before redelivery number 2, 3, …
    backoff_ms: tuple[int, ...]
    #: The client who made the group, "" = not known.
    owner: str = ""
    #: One message of a session is out at a time.
    in_order: bool = True


class Lease(msgspec.Struct, eq=False, gc=False):
    """Deliveries that are not settled: those given to one consumer at the same moment share one."""

    subscriber: Subscriber
    #: Monotonic seconds.
    deadline: float


@dataclass(slots=True, eq=False)
class Subscriber:
    """One consumer."""

    client: bytes
    sid: int
    max_in_flight: int
    in_flight: int = 0


@dataclass(slots=True)
class Given:
    """What one consumer is given at once."""

    subscriber: Subscriber
    offsets: list[int] = field(default_factory=list)
    #: Of each how often it was delivered, this time included.
    counts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Attempt:
    """What is known of earlier deliveries."""

    count: int = 0
    first_error: str = ""
    last_error: str = ""


class Durable(msgspec.Struct, gc=False):
    """A group's place, and what of it must be written to get there."""

    #: Everything up to here is settled or parked.
    floor: int
    #: Settled offsets beyond it that are not on disk yet.
    beyond: list[int]
    #: Some that are on disk lie below it by now.
    sweep: bool
    parked: list[Parked]
    #: Parked once, and settled.
    unparked: list[int]
    #: Dead letters, and why they are.
    buried: list[tuple[Parked, str]]


class Changes(msgspec.Struct, gc=False):
    """What of a group has changed since it was last written."""

    #: Said to be done by a consumer, who is told once it is written; until then it has it.
    acked: list[int] = []
    settled: list[int] = []
    parked: dict[int, Parked] = {}
    unparked: list[int] = []
    buried: list[tuple[Parked, str]] = []
