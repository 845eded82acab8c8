"""What became of every message: pure, from what was accepted and what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of messages. `well`: none was lost, doubled or reordered, and none came from nowhere."""

    #: Taken by the mesh, or promised by it (a reminder).
    accepted: int = 0
    #: Of these, seen at least once.
    answered: int = 0
    #: Of these, never seen.
    lost: int = 0
    #: Seen again, each time counts.
    doubled: int = 0
    #: First seen after one that was accepted later.
    reordered: int = 0
    #: Seen, but never accepted.
    strange: int = 0

    @property
    def well(self) -> bool:
        return not (self.lost or self.doubled or self.reordered or self.strange)

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def account(accepted: Sequence[str], seen: Iterable[str], *, ordered: bool = True) -> Account:
    """One stream's account. `accepted` has no doubles; `ordered` False: any order is right."""
    place = {token: number for number, token in enumerate(accepted)}
    if len(place) != len(accepted):
        raise ValueError("a token was accepted twice: the traffic is not numbered")
    counts = Counter(seen)
    newest, reordered = -1, 0
    for token in counts:  # in the order in which each came first
        number = place.get(token, newest)
        reordered += number < newest
        newest = max(newest, number)
    answered = sum(token in place for token in counts)
    return Account(
        accepted=len(place), answered=answered, lost=len(place) - answered,
        doubled=sum(count - 1 for token, count in counts.items() if token in place),
        reordered=reordered if ordered else 0, strange=len(counts) - answered,
    )


def total(streams: Mapping[str, Account]) -> Account:
    """All of them together."""
    whole = Account()
    for one in streams.values():
        whole += one
    return whole


def missing(accepted: Sequence[str], seen: Iterable[str]) -> list[str]:
    """What was accepted and not seen, in order."""
    there = set(seen)
    return [token for token in accepted if token not in there]
