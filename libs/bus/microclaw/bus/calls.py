"""Who speaks to the broker, and what it wants stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from microclaw.bus.group import Group, Subscriber
from microclaw.bus.journal_schema import NewRow
from microclaw.core.rights import Rights


class Refusal(Exception):
    """A call can't be met."""

    def __init__(self, code: str, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(why)


@dataclass(slots=True, eq=False)
class Client:
    """A connection that said HELLO."""

    routing: bytes
    name: str
    instance: bytes
    pid: int
    subscribers: dict[int, tuple[Group, Subscriber]] = field(default_factory=dict)
    rights: Rights = field(default_factory=Rights)
    serves: bool = False
    requests: int = 0
    #: Bytes of replay answers since it last said something: it may not be reading them.
    unread_bytes: int = 0
    #: Kinds it was allowed to publish, so that each is looked up once.
    may_publish: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Call:
    """A publish, alone or with an acknowledgement: all or nothing."""

    client: Client
    rid: int
    rows: list[NewRow]
    #: (session, kind, expected last seq or None) of each row.
    names: list[tuple[str, str, int | None]]
    group: Group | None = None
    offsets: tuple[int, ...] = ()
    #: [seq, duplicate] of each row once it is stored; None = it was refused.
    answer: list[list[Any]] | None = None
    refusal: Refusal | None = None
