"""The audit chain: each entry's hash covers the hash before it, so nothing can be changed without all that follows.

Deleting, reordering or editing an entry breaks the chain at that place; cutting off its end is found by the *head*
(count and hash), which is kept in another file. Who can write both files at once can cut the end off unseen, so the
head is shown in `status` too: an older note of it that `verify` does not find in the chain gives such a cut away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

#: What stands before the first entry.
GENESIS = bytes(32)
#: Longer texts are cut: an entry is a line, not a store.
FIELD_CHARS_MAX = 1000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One decision or deed. Never holds a secret, a prompt or an answer."""

    #: Place in the chain, from 1, dense.
    number: int
    ts_ms: int
    #: Who: `worker:<id>@<group>`, `cli`, `service:<name>`.
    actor: str
    #: What: `egress.connect`, `model.call`, `secret.set`, …
    action: str
    #: To what: a host and port, a secret's name, …
    subject: str
    #: `allow`, `deny`, `ok`, `failed`, …
    outcome: str
    detail: str = ""
    #: The envelope that brought it; empty for egress's own.
    cause: bytes = b""
    hash: bytes = b""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """How far the chain goes."""

    number: int = 0
    hash: bytes = GENESIS


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain is broken."""

    number: int
    what: Literal["edited", "missing", "reordered", "truncated"]
    detail: str


def entry_hash(before: bytes, entry: Entry) -> bytes:
    """The hash of `entry` (its own `hash` aside) after one whose hash is `before`."""
    canonical = msgspec.msgpack.encode((
        "microclaw.audit.1", before, entry.number, entry.ts_ms, entry.actor, entry.action, entry.subject,
        entry.outcome, entry.detail, entry.cause,
    ))
    return hashlib.sha256(canonical).digest()


def chained(head: Head, entries: Iterable[Entry]) -> tuple[list[Entry], Head]:
    """`entries` numbered and hashed on after `head`, and the new head. Long texts are cut."""
    out: list[Entry] = []
    for entry in entries:
        placed = msgspec.structs.replace(
            entry, number=head.number + 1, hash=b"",
            **{name: getattr(entry, name)[:FIELD_CHARS_MAX] for name in ("actor", "action", "subject", "detail")},
        )
        placed = msgspec.structs.replace(placed, hash=entry_hash(head.hash, placed))
        out.append(placed)
        head = Head(number=placed.number, hash=placed.hash)
    return out, head


class Verifier:
    """Follows a chain from its start, entry by entry; `finish` compares its end with the noted head."""

    def __init__(self, noted: Head) -> None:
        self._noted = noted
        self._head = Head()
        self._faults: list[Fault] = []

    def take(self, entry: Entry) -> None:
        """The next entry as it is stored."""
        expected = self._head.number + 1
        if entry.number != expected:
            self._fault(
                expected, "missing" if entry.number > expected else "reordered",
                f"entry {entry.number} stands where {expected} belongs",
            )
        elif entry_hash(self._head.hash, msgspec.structs.replace(entry, hash=b"")) != entry.hash:
            self._fault(entry.number, "edited", "its hash does not fit its fields and the entry before it")
        if entry.number == self._noted.number and entry.hash != self._noted.hash:
            self._fault(entry.number, "edited", "it is not the one that the head file names")
        # Go on from what is stored, so that one fault is told once.
        self._head = Head(number=entry.number, hash=entry.hash)

    def finish(self) -> tuple[Head, list[Fault]]:
        """(the stored chain's end, all faults)."""
        if self._head.number < self._noted.number:
            self._fault(
                self._head.number + 1, "truncated",
                f"the head file knows {self._noted.number} entries, the last one stored is {self._head.number}",
            )
        return self._head, self._faults

    def _fault(self, number: int, what: Literal["edited", "missing", "reordered", "truncated"], detail: str) -> None:
        self._faults.append(Fault(number=number, what=what, detail=detail))
