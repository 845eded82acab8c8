"""The queue's database: the state machine's state, and what its commands change."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from microclaw.core.dispatch import RETRY_MS, Ended, LateDone, Outcome
from microclaw.core.lanes import Fire, Item, Lane, Run
from microclaw.core.requests import RunRow
from microclaw.queue.tables import items, lanes, runs

#: How long ended runs are kept.
RUNS_KEPT_MS = 30 * 24 * 3600 * 1000
#: Longest error text kept of a run.
ERROR_CHARS_MAX = 1_000

RUNNING = "running"

# Built once: making a statement costs more than running it.
_ADD_ITEM = insert(items)
_DROP_ITEM = delete(items).where(items.c.number == bindparam("known"))
_TAKE_ITEM = update(items).where(items.c.number == bindparam("known"))
_DOOM_ITEM = update(items).where(items.c.number == bindparam("known")).values(withdrawn=True)
_PAYLOADS = (
    select(items.c.payload).where(items.c.run_id == bindparam("run_id"), items.c.in_run).order_by(items.c.number)
)
_KNOWN_RUN = select(runs.c.run_id).where(runs.c.run_id == bindparam("run_id"))
_ADD_RUN = upsert(runs)
#: A task's run has one name in all its tries.
_BEGIN_RUN = _ADD_RUN.on_conflict_do_update(
    index_elements=[runs.c.run_id],
    set_={name: _ADD_RUN.excluded[name] for name in ("attempt", "state", "lost", "granted_ms", "ended_ms", "error")},
)
_RENEW_RUN = update(runs).where(runs.c.run_id == bindparam("known"))
_ADD_LANE = upsert(lanes)
_KEEP_LANE = _ADD_LANE.on_conflict_do_update(
    index_elements=[lanes.c.folder],
    set_={name: column for name, column in _ADD_LANE.excluded.items() if name != "folder"},
)


def load_lanes(engine: Engine, now_ms: int) -> list[Lane]:
    """All groups as they stood. A pause is at most as long as the longest, however the clock was moved meanwhile."""
    found: dict[str, Lane] = {}
    with engine.begin() as db:
        for row in db.execute(select(lanes)):
            retry = None if row.retry_ms is None else min(row.retry_ms, now_ms + max(RETRY_MS))
            found[row.folder] = Lane(
                row.folder, wanted=row.wanted, tries=row.tries, retries=row.retries, waits=row.waits, retry_ms=retry,
                ticket=row.ticket, error=row.error,
            )
        carried: dict[str, list[Item | Fire]] = {}
        facts = (items.c.number, items.c.folder, items.c.chat, items.c.is_main, items.c.task_id, items.c.due_ms,
                 items.c.run_id, items.c.in_run, items.c.withdrawn, func.length(items.c.payload).label("size_bytes"))
        for row in db.execute(select(*facts).order_by(items.c.number)):
            lane = found.setdefault(row.folder, Lane(row.folder))
            thing = (
                Fire(row.number, row.chat, row.task_id, row.due_ms, row.is_main, row.withdrawn) if row.task_id
                else Item(row.number, row.chat, row.is_main, row.size_bytes, row.run_id)
            )
            if row.in_run:
                carried.setdefault(row.run_id, []).append(thing)
            elif isinstance(thing, Fire):
                lane.fires.append(thing)
            else:
                lane.items.append(thing)
        for row in db.execute(select(runs).where(runs.c.state == RUNNING)):
            things = carried.get(row.run_id, [])
            fires = [thing for thing in things if isinstance(thing, Fire)]
            found.setdefault(row.folder, Lane(row.folder)).run = Run(
                row.run_id, row.folder, row.chat, row.is_main, row.attempt, row.granted_ms,
                tuple(thing for thing in things if isinstance(thing, Item)), fires[0] if fires else None,
            )
    for lane in found.values():
        # Not kept: fires that are not in line and have a pause before them rest until it is over.
        lane.fires_rest = bool(lane.fires) and lane.ticket is None and lane.retry_ms is not None
    return list(found.values())


def last_number(engine: Engine) -> int:
    """The highest number given to an item that is still there."""
    with engine.begin() as db:
        return int(db.execute(select(func.max(items.c.number))).scalar() or 0)


def add_item(db: Connection, folder: str, thing: Item | Fire, payload: bytes, now_ms: int) -> None:
    """Keep a message or a fire."""
    fire = thing if isinstance(thing, Fire) else None
    db.execute(_ADD_ITEM, {
        "number": thing.number, "folder": folder, "chat": thing.chat, "is_main": thing.is_main, "payload": payload,
        "task_id": fire.task_id if fire else "", "due_ms": fire.due_ms if fire else 0,
        "run_id": "", "in_run": False, "at_ms": now_ms,
    })


def doom_item(db: Connection, number: int) -> None:
    """Keep that a fire under way was withdrawn."""
    db.execute(_DOOM_ITEM, {"known": number})


def drop_item(db: Connection, number: int) -> None:
    """Forget a message or a fire."""
    _drop(db, [number])


def knows_run(db: Connection, run_id: str) -> bool:
    """Whether such a run was ever granted."""
    return db.execute(_KNOWN_RUN, {"run_id": run_id}).first() is not None


def start_run(db: Connection, run: Run, now_ms: int) -> list[msgspec.Raw]:
    """Keep that it was granted, and give what it carries, in order."""
    db.execute(_BEGIN_RUN, {
        "run_id": run.run_id, "folder": run.group, "chat": run.chat, "is_main": run.is_main,
        "task_id": run.fire.task_id if run.fire else "", "attempt": run.attempt, "state": RUNNING, "lost": False,
        "granted_ms": now_ms, "ended_ms": None, "error": "",
    })
    db.execute(_TAKE_ITEM, [{"known": number, "run_id": run.run_id, "in_run": True} for number in _numbers(run)])
    return [msgspec.Raw(payload) for payload in db.execute(_PAYLOADS, {"run_id": run.run_id}).scalars()]


def end_run(db: Connection, ended: Ended, now_ms: int) -> None:
    """Keep how it ended; what it carried is done, or its group's again."""
    run = ended.run
    db.execute(_RENEW_RUN, {
        "known": run.run_id, "state": ended.outcome, "lost": ended.lost, "ended_ms": now_ms,
        "error": ended.error[:ERROR_CHARS_MAX],
    })
    numbers = _numbers(run)
    waits = ended.outcome is Outcome.RETRYING or (ended.outcome is Outcome.FAILED and run.fire is None)
    if not waits:
        _drop(db, numbers)
    elif numbers:
        db.execute(_TAKE_ITEM, [{"known": number, "in_run": False} for number in numbers])


def end_late(db: Connection, late: LateDone) -> None:
    """Drop messages that a run given up had answered after all."""
    _drop(db, [item.number for item in late.items])


def keep_lanes(db: Connection, changed: Iterable[Lane]) -> None:
    """Keep where these groups stand."""
    for lane in changed:
        db.execute(_KEEP_LANE, {
            "folder": lane.group, "wanted": lane.wanted, "tries": lane.tries, "retries": lane.retries,
            "waits": lane.waits, "retry_ms": lane.retry_ms, "ticket": lane.ticket,
            "error": lane.error[:ERROR_CHARS_MAX],
        })


def trim(engine: Engine, now_ms: int) -> None:
    """Forget runs that ended long ago."""
    with engine.begin() as db:
        db.execute(delete(runs).where(runs.c.state != RUNNING, runs.c.ended_ms < now_ms - RUNS_KEPT_MS))


def running_rows(engine: Engine, limit: int) -> tuple[RunRow, ...]:
    """What runs, the oldest first."""
    query = select(runs).where(runs.c.state == RUNNING).order_by(runs.c.granted_ms).limit(limit)
    with engine.begin() as db:
        return tuple(
            RunRow(run_id=row.run_id, group=row.folder, state=RUNNING, attempt=row.attempt, since_ms=row.granted_ms)
            for row in db.execute(query)
        )


def failed_rows(engine: Engine, limit: int) -> tuple[RunRow, ...]:
    """What failed for good, the newest first."""
    query = (
        select(runs).where(runs.c.state.in_((Outcome.FAILED, Outcome.CUT)))
        .order_by(runs.c.ended_ms.desc()).limit(limit)
    )
    with engine.begin() as db:
        return tuple(
            RunRow(
                run_id=row.run_id, group=row.folder, state=row.state, attempt=row.attempt, since_ms=row.ended_ms,
                error=row.error,
            )
            for row in db.execute(query)
        )


def waiting_since(engine: Engine) -> dict[str, int]:
    """For each group with something to do: since when its oldest item waits."""
    query = select(items.c.folder, func.min(items.c.at_ms)).where(items.c.in_run.is_(False)).group_by(items.c.folder)
    with engine.begin() as db:
        return {row[0]: row[1] for row in db.execute(query)}


def _drop(db: Connection, numbers: list[int]) -> None:
    if numbers:
        db.execute(_DROP_ITEM, [{"known": number} for number in numbers])


def _numbers(run: Run) -> list[int]:
    return [run.fire.number] if run.fire else [item.number for item in run.items]
