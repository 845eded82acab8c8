"""Letting groups look at what is new, and giving their consumers what is ready."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from microclaw.bus.group import Group, Offered, Subscriber
from microclaw.bus.journal_schema import Row
from microclaw.bus.storing import Storage
from microclaw.bus.wire import Op

#: Messages looked at for one group in one turn.
SCAN_MAX = 2_000
#: Bytes of one delivery frame, about.
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
        storage, names = self._storage, self._storage.kind_names()
        kinds = {no for no, name in names.items() if group.matches(name)}
        prefix = group.sessions
        if prefix:
            def wants(row: Offered) -> bool:
                return row.kind in kinds and storage.session_name(row.session).startswith(prefix)
        else:
            def wants(row: Offered) -> bool:
                return row.kind in kinds
        group.look(storage.since(group.next, budget), wants, now, now_ms)

    def _give(self, group: Group, now: float, now_ms: int) -> None:
        batches: dict[Subscriber, list[list[Any]]] = defaultdict(list)
        row_at = self._storage.row
        size = 0
        while size < BATCH_BYTES_MAX and (given := group.give(now)):
            offset, subscriber, count = given
            row = row_at(offset)
            if row is None:
                group.term(offset, "no longer in the journal")
                continue
            if isinstance(row, Row) and row.damaged:
                log.error("a message is damaged on disk", extra={"offset": offset, "group": group.name})
                group.term(offset, "damaged on disk: its checksum does not match")
                continue
            if row.expires_ms is not None and row.expires_ms <= now_ms:
                group.expire(offset)
                continue
            size += len(row.body)
            batches[subscriber].append([offset, row.seq, count, row.body])
        for subscriber, batch in batches.items():
            self._say(subscriber.client, [DELIVER, subscriber.sid, batch])
