"""Letting groups look at what is new, and giving their consumers what is ready.

Most groups are given the same as the one before them: what is made of the messages for one is kept for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from microclaw.bus.group import Group
from microclaw.bus.journal_schema import NewRow, Row
from microclaw.bus.leases import Given, Offered, Subscriber
from microclaw.bus.storing import Storage
from microclaw.bus.wire import Op

#: Messages looked at for one group in one turn.
SCAN_MAX = 2_000
#: Messages of one delivery to one consumer.
GIVE_MAX = 1_000
#: Bytes of the deliveries of one group in one turn, about.
BATCH_BYTES_MAX = 1 << 20

#: As a plain number: an IntEnum is encoded ten times as slowly.
DELIVER = int(Op.DELIVER)

#: (routing id, operation): say this to a client.
Say = Callable[[bytes, list[Any]], None]

log = logging.getLogger("microclaw.broker")


@dataclass(slots=True)
class _Batch:
    """Messages that were ready in one group, and their columns on the wire."""

    ready: list[int]
    rows: Sequence[Row | NewRow | None]
    offsets: list[int] = field(init=False)
    seqs: list[int] = field(init=False)
    bodies: list[bytes] = field(init=False)
    size: int = field(init=False)
    #: None of them is gone, damaged, or may be too late.
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = self.ready[:len(self.rows)]
        there = [row for row in self.rows if row is not None]
        self.seqs, self.bodies = [row.seq for row in there], [row.body for row in there]
        self.size = sum(map(len, self.bodies))
        special = [row for row in there if row.expires_ms is not None or row.damaged]
        self.plain = len(there) == len(self.rows) and not special


class Delivering:
    """From the journal, or what of it is in memory, to the consumers."""

    def __init__(self, storage: Storage, say: Say) -> None:
        self._storage = storage
        self._say = say
        #: Of this turn: what the group before was given.
        self._before: _Batch | None = None

    def turn(self, groups: Iterable[Group], now: float, now_ms: int) -> None:
        """Give everybody what there is for them."""
        for group in groups:
            if not group.subscribers:
                continue
            if group.next <= self._storage.last_offset:
                self._scan(group, now, now_ms)
            if group.can_give:
                self._give(group, now, now_ms)
        self._before = None

    def _scan(self, group: Group, now: float, now_ms: int) -> None:
        """Let the group look at what is new."""
        budget = min(SCAN_MAX, group.room)
        if budget <= 0:
            return
        storage, prefix = self._storage, group.wanted.sessions

        def wants(row: Offered) -> bool:
            return storage.session_name(row.session).startswith(prefix)

        first = group.next
        group.look(storage.since(first, budget), group.kind_nos(storage.kinds), wants if prefix else None, now, now_ms)
        if group.next == first:
            # Retention has deleted everything from there on.
            group.next = storage.last_offset + 1

    def _give(self, group: Group, now: float, now_ms: int) -> None:
        bytes_left = BATCH_BYTES_MAX
        while bytes_left > 0 and (ready := group.ready(min(GIVE_MAX, group.capacity))):
            batch = self._before
            if batch is None or batch.ready != ready or batch.size > bytes_left:
                batch = self._before = _Batch(ready, self._storage.rows(ready, bytes_left))
            bytes_left -= batch.size
            for given in group.give(now, len(batch.offsets)):
                if batch.plain and given.offsets == batch.offsets:
                    self._deliver(given.subscriber, batch.offsets, batch.seqs, given.counts, batch.bodies)
                else:
                    self._deliver_some(group, given, batch, now_ms)

    def _deliver_some(self, group: Group, given: Given, batch: _Batch, now_ms: int) -> None:
        rows = dict(zip(batch.offsets, batch.rows, strict=True))
        good = [
            (offset, row.seq, count, row.body) for offset, count in zip(given.offsets, given.counts, strict=True)
            if (row := self._whole(group, offset, rows[offset], now_ms))
        ]
        if good:
            self._deliver(given.subscriber, *map(list, zip(*good, strict=True)))

    def _deliver(
        self, subscriber: Subscriber, offsets: list[int], seqs: list[int], counts: list[int], bodies: list[bytes]
    ) -> None:
        self._say(subscriber.client, [DELIVER, subscriber.sid, offsets, seqs, counts, bodies])

    @staticmethod
    def _whole(group: Group, offset: int, row: Row | NewRow | None, now_ms: int) -> Row | NewRow | None:
        """The message if it can be given; else it is settled here."""
        if row is None:
            group.term(offset, "no longer in the journal")
        elif row.damaged:
            log.error("a message is damaged on disk", extra={"offset": offset, "group": group.name})
            group.term(offset, "damaged on disk: its checksum does not match")
        elif row.expires_ms is not None and row.expires_ms <= now_ms:
            group.expire(offset)
        else:
            return row
        return None
