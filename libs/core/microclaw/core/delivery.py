"""What becomes of one part of a reply on its way to a platform: pure.

    prepared ──► sending ──► sent
        ▲           │──────► failed      the platform will never take it
        └───────────┤        expired     too old before it could be sent
         not sent   └──────► uncertain   it may have arrived, and nobody can tell: never sent again blindly

`sending` is on disk before the platform hears anything, so whoever finds it after a crash knows that the part may have
arrived, and asks the platform (`Platform.find`) before anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import msgspec

from microclaw.core.kinds import Attachment


class PartState(StrEnum):
    """Where a part stands. The texts are in databases: never change them."""

    #: Not begun, or known not to have arrived.
    PREPARED = "prepared"
    #: The platform may have it.
    SENDING = "sending"
    #: The platform has it, under this id.
    SENT = "sent"
    #: It will never be sent.
    FAILED = "failed"
    #: Whether it arrived can't be found out.
    UNCERTAIN = "uncertain"
    #: Its time was over.
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing more becomes of it."""
        return self not in (PartState.PREPARED, PartState.SENDING)


#: What may follow what.
NEXT: dict[PartState, frozenset[PartState]] = {
    PartState.PREPARED: frozenset({PartState.SENDING, PartState.FAILED, PartState.EXPIRED}),
    PartState.SENDING: frozenset({PartState.PREPARED, PartState.SENT, PartState.FAILED, PartState.UNCERTAIN}),
    **{state: frozenset() for state in PartState if state.is_final},
}


class IllegalStep(ValueError):
    """A part can't go from the one state to the other."""


def step(before: PartState, after: PartState) -> PartState:
    """`after`. Raises IllegalStep."""
    if after not in NEXT[before]:
        allowed = ", ".join(sorted(NEXT[before])) or "nothing, it is final"
        raise IllegalStep(f"a part that is {before} can't become {after}: only {allowed}")
    return after


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One message to a platform: a text, a file, or both."""

    text: str = ""
    file: Attachment | None = None
    #: A message of ours that becomes this one ("" = a new one): it showed the answer while it was written.
    edits: str = ""


ReplyState = Literal["sent", "failed", "uncertain", "expired"]


def outcome(states: Iterable[PartState]) -> ReplyState:
    """What became of a reply whose parts all ended. The worst that the person may notice counts."""
    found = set(states)
    if PartState.UNCERTAIN in found:
        return "uncertain"
    if PartState.FAILED in found or not found:
        return "failed"
    if PartState.EXPIRED in found:
        return "expired" if found == {PartState.EXPIRED} else "failed"
    return "sent"


@dataclass(frozen=True, slots=True)
class Age:
    """Bounds on how old a reply may be when it is sent."""

    #: Older than this is said to be late, ms.
    late_after_ms: int
    #: Older than this is not sent any more, ms.
    expire_after_ms: int


def is_over(written_ms: int, expires_ms: int, age: Age, now_ms: int) -> bool:
    """Whether a reply's time is over: its own bound, or the channel's."""
    return bool(expires_ms and expires_ms <= now_ms) or now_ms - written_ms > age.expire_after_ms


def is_late(written_ms: int, age: Age, now_ms: int) -> bool:
    """Whether the person should be told that this was written a while ago."""
    return now_ms - written_ms > age.late_after_ms
