"""Letting groups look at what is new, and giving their consumers what is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from microclaw.bus.group import Given, Group
from microclaw.bus.journal_schema import NewRow, Row
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


class Delivering:
    """From the journal, or what of it is in memory, to the consumers."""

    def __init__(self, storage: Storage, say: Say) -> None:
        self._storage = storage
        self._say = say

    def turn(self, groups: Iterable[Group], now: float, now_ms: int) -> None:
        """Give everybody what there is for them."""
        for group in groups:
            if not group.subscribers:
                continue
            if group.next <= self._storage.last_offset:
                self._scan(group, now, now_ms)
            if group.can_give:
                self._give(group, now, now_ms)

    def _scan(self, group: Group, now: float, now_ms: int) -> None:
        """Let the group look at what is new."""
        budget = min(SCAN_MAX, group.room)
        if budget <= 0:
            return
        storage, prefix = self._storage, group.sessions
        wants = (lambda row: storage.session_name(row.session).startswith(prefix)) if prefix else None
        group.look(storage.since(group.next, budget), group.kind_nos(storage.kinds), wants, now, now_ms)

    def _give(self, group: Group, now: float, now_ms: int) -> None:
        bytes_left = BATCH_BYTES_MAX
        while bytes_left > 0 and (ready := group.ready(min(GIVE_MAX, group.capacity))):
            rows = self._storage.rows(ready, bytes_left)
            bytes_left -= sum([len(row.body) for row in rows if row is not None])
            for given in group.give(now, len(rows)):
                if given.offsets != ready[:len(rows)]:
                    of = dict(zip(ready, rows, strict=False))
                    theirs = [of[offset] for offset in given.offsets]
                else:
                    theirs = rows
                self._deliver(group, given, theirs, now_ms)

    def _deliver(self, group: Group, given: Given, rows: Sequence[Row | NewRow | None], now_ms: int) -> None:
        offsets, counts = given.offsets, given.counts
        bad = [n for n, row in enumerate(rows) if row is None or row.expires_ms is not None or row.damaged]
        if bad:
            gone = {n for n in bad if not self._can_be_had(group, offsets[n], rows[n], now_ms)}
            offsets, counts, rows = (
                [value for n, value in enumerate(values) if n not in gone] for values in (offsets, counts, rows)
            )
        if offsets:
            seqs, bodies = [row.seq for row in rows if row], [row.body for row in rows if row]
            subscriber = given.subscriber
            self._say(subscriber.client, [DELIVER, subscriber.sid, offsets, seqs, counts, bodies])

    @staticmethod
    def _can_be_had(group: Group, offset: int, row: Row | NewRow | None, now_ms: int) -> bool:
        """What can't be is settled here."""
        if row is None:
            group.term(offset, "no longer in the journal")
        elif row.damaged:
            log.error("a message is damaged on disk", extra={"offset": offset, "group": group.name})
            group.term(offset, "damaged on disk: its checksum does not match")
        elif row.expires_ms is not None and row.expires_ms <= now_ms:
            group.expire(offset)
        else:
            return True
        return False
