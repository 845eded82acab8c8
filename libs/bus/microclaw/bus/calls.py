"""Who speaks to the broker, and what it wants stored."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from microclaw.bus.group import Group
from microclaw.bus.journal_schema import NewRow
from microclaw.bus.leases import Subscriber, Wanted
from microclaw.bus.subjects import subject_matcher
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
    #: Groups that it may use, and what they wanted when it was asked.
    _uses: dict[str, Wanted] = field(default_factory=dict)

    def may_read(self, pattern: str) -> bool:
        """A pattern is allowed when an allowed pattern covers it: `*` in it is a segment like any other."""
        return subject_matcher(self.rights.read)(pattern) and (">" not in pattern or ">" in self.rights.read)

    def may_use(self, group: Group) -> bool:
        """Join it, change what it wants, settle what it was given: whoever made it, or may read all that it reads."""
        if self._uses.get(group.name) is group.wanted:
            return True
        if group.wanted.owner != self.name and not all(map(self.may_read, group.wanted.kinds)):
            return False
        self._uses[group.name] = group.wanted
        return True


#: The broker's own name: as a responder, and as the source of what it says itself.
BROKER = "broker"
MYSELF = Client(b"", BROKER, b"", 0, rights=Rights(publish=("audit.entry",)))


class Call(msgspec.Struct, eq=False):
    """A publish, alone or with an acknowledgement: all or nothing. Or (`each`) a row of publishes of one message each,
    whose ids are `rid`, `rid + 1`, …: each for itself."""

    client: Client
    rid: int
    rows: list[NewRow]
    group: Group | None = None
    offsets: tuple[int, ...] = ()
    each: bool = False
    #: Of each row its seq once it is stored, negative = it was there before, 0 = it was refused (`refusals`);
    #: None = all was refused.
    answer: list[int] | None = None
    #: Why, by the id of the call that was refused.
    refusals: dict[int, Refusal] = {}
