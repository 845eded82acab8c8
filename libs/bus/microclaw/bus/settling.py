"""Writing what consumer groups are done with, and telling of what they gave up.

Each new dead letter is told in the session `dlq.<group>`, in the transaction that makes it one: so it can be replayed,
and waited for by whoever wants to know.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from microclaw.bus.calls import MYSELF, Call
from microclaw.bus.envelope import NAME_CHARS_MAX, VERSION, Envelope, decode, encode
from microclaw.bus.errors import EnvelopeError
from microclaw.bus.group import Group
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow, Parked
from microclaw.bus.leases import Durable
from microclaw.bus.storing import Storage
from microclaw.core.ids import new_id

#: Kind and session of the notices (`core.kinds.DeadLetter`).
DEAD_LETTER = "bus.dead_letter"
DEAD_LETTERS = "dlq."


def save(
    journal: Journal, storage: Storage, groups: Iterable[Group], now_ms: int, *, tell: bool
) -> list[tuple[Group, Durable]]:
    """Write what of these groups has changed, inside a transaction; once it is committed, give `Group.saved` what this
    returns. `tell`: with a notice of each new dead letter.

    :raises NoSpace: the disk is full; undo the transaction and `reload` the storage.
    """
    saved = []
    notices: list[NewRow] = []
    for group in groups:
        if not group.dirty:
            continue
        durable = group.durable()
        journal.settle(group.no, durable.floor, durable.beyond, sweep=durable.sweep)
        for parked in durable.parked:
            journal.park(group.no, parked)
        for offset in durable.unparked:
            journal.unpark(group.no, offset)
        for parked, reason in durable.buried:
            journal.bury(group.no, parked, reason, now_ms)
            if tell and (notice := _notice(storage, group.name, parked, reason, now_ms)):
                notices.append(notice)
        saved.append((group, durable))
    if notices:
        storage.store([Call(MYSELF, 0, notices)], now_ms)
    return saved


def _notice(storage: Storage, group: str, parked: Parked, reason: str, now_ms: int) -> NewRow | None:
    """None = the dead letter is such a notice itself: whoever can't take them must not be told of that by one more."""
    (row,) = storage.rows([parked.offset], 0)
    try:
        dead = decode(row.body) if row is not None else None
    except EnvelopeError:
        dead = None
    if dead is not None and dead.kind == DEAD_LETTER:
        return None
    payload = {
        "kind": DEAD_LETTER, "group": group, "offset": parked.offset,
        "session": dead.session_id if dead is not None else "", "seq": row.seq if row is not None else 0,
        "what": dead.kind if dead is not None else "", "reason": reason, "count": parked.count,
        "first_error": parked.first_error, "last_error": parked.last_error,
    }
    session, message_id = (DEAD_LETTERS + group)[:NAME_CHARS_MAX], new_id(now_ms)
    body = encode(Envelope(
        v=VERSION, seq=0, ts_ms=now_ms, source=MYSELF.name, device_id="", session_id=session, message_id=message_id,
        payload=msgspec.Raw(msgspec.msgpack.encode(payload)),
    ))
    return NewRow(message_id, body, session, DEAD_LETTER)
