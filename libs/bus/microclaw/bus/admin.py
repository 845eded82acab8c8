"""The questions that the broker itself answers, and its answers. Asked of the service `broker`.

What changes something (dead letters, groups, backup, compact) needs the `admin` right.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from microclaw.bus.curve import PeerKeys
from microclaw.core.requests import Request

#: What the journal can hold as a number.
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class BusInfoAsked(Request, frozen=True, kw_only=True, tag="bus.info"):
    """How the bus is."""


class BusInfo(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.info.answer"):
    epoch: str
    #: The newest offset given, and the oldest kept (0 = none).
    last_offset: int
    first_offset: int
    messages: int
    sessions: int
    groups: int
    dead: int
    clients: tuple[str, ...]
    #: Since the broker's start.
    published: int
    duplicates: int
    commits: int
    #: Of the last `statistics.KEPT` commits: milliseconds, and messages in one.
    commit_p50_ms: float
    commit_p99_ms: float
    batch_p50: float
    batch_max: int
    journal_bytes: int
    wal_bytes: int
    no_space: bool


class GroupsOfBusAsked(Request, frozen=True, kw_only=True, tag="bus.groups"):
    """The consumer groups; `name` "" = all."""

    name: str = ""


class GroupOfBus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kinds: tuple[str, ...]
    sessions: str
    consumers: tuple[str, ...]
    #: Offsets the group has not looked at.
    lag: int
    #: Unsettled messages it knows of, those given to a consumer, those set aside for later.
    waiting: int
    in_flight: int
    parked: int
    dead: int
    redelivered: int
    expired: int
    #: Age of the oldest unsettled message, ms; 0 = none.
    oldest_unsettled_ms: int
    max_deliver: int
    ack_wait_ms: int
    #: One message of a session is out at a time.
    in_order: bool = True


class GroupsOfBus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.groups.answer"):
    groups: tuple[GroupOfBus, ...]


class SessionsAsked(Request, frozen=True, kw_only=True, tag="bus.sessions"):
    """Sessions whose name begins so, most recently used first."""

    prefix: str = ""
    limit: Count = 100


class SessionOfBus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    last_seq: int
    kept: int


class SessionsOfBus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.sessions.answer"):
    sessions: tuple[SessionOfBus, ...]


class TailAsked(Request, frozen=True, kw_only=True, tag="bus.tail"):
    """Messages after an offset, oldest first; a negative `after` counts from the end (-10 = the last ten). `after_ms`
    instead: those stored at or after that moment."""

    after: Annotated[int, msgspec.Meta(lt=1 << 62)] = 0
    after_ms: int = 0
    kinds: tuple[str, ...] = (">",)
    sessions: str = ""
    limit: Count = 100


class TailRow(msgspec.Struct, frozen=True, kw_only=True):
    offset: int
    seq: int
    stored_ms: int
    #: The envelope as it was published (its own `seq` is 0).
    body: bytes


class TailRows(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.tail.answer"):
    rows: tuple[TailRow, ...]
    #: Ask on from here.
    last: int


class DeadLettersAsked(Request, frozen=True, kw_only=True, tag="bus.dead"):
    """Dead letters, newest first, as many as fit in an answer; `group` "" = of all groups."""

    group: str = ""
    limit: Count = 100


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    group: str
    offset: int
    count: int
    dead_ms: int
    reason: str
    first_error: str
    last_error: str
    body: bytes


class DeadLetters(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.dead.answer"):
    letters: tuple[DeadLetter, ...]


class SettleDead(Request, frozen=True, kw_only=True, tag="bus.dead.settle"):
    """Deliver dead letters again, or forget them. `offset` 0 = all of the group's."""

    group: str
    offset: Count
    action: Literal["requeue", "drop"]


class DropGroup(Request, frozen=True, kw_only=True, tag="bus.groups.drop"):
    """Forget a consumer group, its place and its dead letters; refused while it has consumers."""

    name: str


class MetricsAsked(Request, frozen=True, kw_only=True, tag="bus.metrics"):
    """The numbers as Prometheus text."""


class Text(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.text"):
    text: str


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.settled"):
    count: int


class PeersAsked(Request, frozen=True, kw_only=True, tag="bus.peers"):
    """The names that have a key for the bus over tcp."""


class Peers(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.peers.answer"):
    #: Where the broker listens for them, "" = nowhere.
    listens: str
    names: tuple[str, ...]


class AddPeer(Request, frozen=True, kw_only=True, tag="bus.peers.add"):
    """Make a pair of keys for this name; an older one is void at once. Answer: NewPeer."""

    name: str


class NewPeer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.peers.add.answer"):
    """The only copy of the secret half: the broker keeps the public one."""

    keys: PeerKeys


class RemovePeer(Request, frozen=True, kw_only=True, tag="bus.peers.remove"):
    """This name's key is void at once, and its connections are cut."""

    name: str


class StartJob(Request, frozen=True, kw_only=True, tag="bus.job.start"):
    """Begin a long piece of work beside the traffic: `check` every row, or `backup` to `path` (a file that is not
    there yet). `compact` gives unused space back; publishers wait while it works. Answer: JobState or Failed."""

    job: Literal["check", "backup", "compact"]
    path: str = ""


class JobAsked(Request, frozen=True, kw_only=True, tag="bus.job"):
    """How the job is."""


class JobState(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="bus.job.answer"):
    job: str
    done: bool
    #: 0…1.
    progress: float
    #: What was found, one line each; empty = all is well.
    findings: tuple[str, ...] = ()
    error: str = ""
