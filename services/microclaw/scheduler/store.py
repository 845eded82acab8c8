"""The scheduler's database."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from microclaw.core.tasks import Status, Task, task_run_id
from microclaw.scheduler.tables import commands, fires, tasks
from microclaw.store.old_rows import delete_old

#: How long the log keeps an ended run, and a task that is over is kept after its last one.
FIRES_KEPT_MS = 90 * 24 * 3600 * 1000
#: How long the answer to a command is remembered; the newest are whatever their age.
COMMANDS_KEPT_MS = 7 * 24 * 3600 * 1000

FIRED = "fired"
#: It found nothing to run in, and waits.
WAITING = "waiting"

_FIELDS = tuple(field.name for field in fields(Task))

# Built once: making a statement costs more than running it.
_OPEN_FIRE = select(fires.c.task_id, fires.c.due_ms).where(
    fires.c.run_id == bindparam("run_id"), fires.c.status.in_((FIRED, WAITING))
)
_TASK = select(tasks).where(tasks.c.id == bindparam("task_id"))
_KEEP_TASK = update(tasks).where(tasks.c.id == bindparam("known"))
_CLAIM = upsert(fires).on_conflict_do_nothing()
_END_FIRE = update(fires).where(fires.c.run_id == bindparam("known"))


def _task(row: Row[Any]) -> Task:
    values = dict(row._mapping)
    values["group"] = values.pop("folder")
    return Task(**values)


def _values(task: Task) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in _FIELDS}
    values["folder"] = values.pop("group")
    return values


def add_task(db: Connection, task: Task) -> None:
    db.execute(insert(tasks), _values(task))


def task_of(db: Connection, task_id: str) -> Task | None:
    row = db.execute(_TASK, {"task_id": task_id}).first()
    return None if row is None else _task(row)


def keep_task(db: Connection, task: Task) -> None:
    db.execute(_KEEP_TASK, {"known": task.id, **_values(task)})


def drop_task(db: Connection, task_id: str) -> None:
    """The task and its log."""
    db.execute(delete(fires).where(fires.c.task_id == task_id))
    db.execute(delete(tasks).where(tasks.c.id == task_id))


def all_tasks(engine: Engine) -> list[Task]:
    with engine.begin() as db:
        return [_task(row) for row in db.execute(select(tasks))]


def count_of(db: Connection, group: str) -> int:
    """Tasks of a group that may still run."""
    query = select(func.count()).where(tasks.c.folder == group, tasks.c.status != Status.COMPLETED)
    return int(db.execute(query).scalar() or 0)


def due_tasks(engine: Engine, now_ms: int, limit: int) -> list[Task]:
    """As `core.tasks.due`, without those held back by their own last run."""
    query = (
        select(tasks)
        .where(tasks.c.status == Status.ACTIVE, tasks.c.next_run_ms <= now_ms, _is_free(now_ms))
        .order_by(tasks.c.next_run_ms, tasks.c.id).limit(limit)
    )
    with engine.begin() as db:
        return [_task(row) for row in db.execute(query)]


def next_due_ms(engine: Engine, now_ms: int) -> int | None:
    """When the next task is due that is not held back."""
    query = select(func.min(tasks.c.next_run_ms)).where(tasks.c.status == Status.ACTIVE, _is_free(now_ms))
    with engine.begin() as db:
        found: int | None = db.execute(query).scalar()
        return found


def overdue_runs(engine: Engine, now_ms: int) -> list[Task]:
    """Tasks whose last fire never told its end."""
    query = select(tasks).where(tasks.c.open_run != "", tasks.c.open_until_ms <= now_ms)
    with engine.begin() as db:
        return [_task(row) for row in db.execute(query)]


def claim(db: Connection, task_id: str, due_ms: int, now_ms: int, *, status: str = FIRED, result: str = "") -> bool:
    """Take this due time. False: it was taken before."""
    made = db.execute(_CLAIM, {
        "task_id": task_id, "due_ms": due_ms, "run_id": task_run_id(task_id, due_ms), "fired_ms": now_ms,
        "ended_ms": None if status == FIRED else now_ms, "status": status, "result": result,
    })
    return made.rowcount == 1


def open_fire(db: Connection, run_id: str) -> tuple[str, int] | None:
    """Task id and due time of a fire whose end was not told yet."""
    row = db.execute(_OPEN_FIRE, {"run_id": run_id}).first()
    return None if row is None else (row.task_id, row.due_ms)


def end_fire(db: Connection, run_id: str, status: str, result: str, now_ms: int) -> None:
    db.execute(_END_FIRE, {"known": run_id, "status": status, "result": result, "ended_ms": now_ms})


def keep_waiting(db: Connection, run_id: str, why: str) -> None:
    """This fire found nothing to run in, and waits."""
    db.execute(_END_FIRE, {"known": run_id, "status": WAITING, "result": why})


def log_of(engine: Engine, task_id: str, limit: int = 50) -> list[Row[Any]]:
    """The runs of a task, the newest first."""
    query = select(fires).where(fires.c.task_id == task_id).order_by(fires.c.due_ms.desc()).limit(limit)
    with engine.begin() as db:
        return list(db.execute(query))


def answer_to(db: Connection, command_id: str) -> bytes | None:
    found: bytes | None = db.execute(select(commands.c.answer).where(commands.c.command_id == command_id)).scalar()
    return found


def keep_answer(db: Connection, command_id: str, answer: bytes, now_ms: int) -> None:
    db.execute(insert(commands), {"command_id": command_id, "answer": answer, "at_ms": now_ms})


def trim(engine: Engine, now_ms: int) -> None:
    """Forget old runs, tasks that are over as long, and old answers."""
    over = (tasks.c.status == Status.COMPLETED, tasks.c.next_run_ms.is_(None), tasks.c.open_run == "")
    with engine.begin() as db:
        db.execute(delete(fires).where(fires.c.ended_ms < now_ms - FIRES_KEPT_MS))
        db.execute(delete(tasks).where(
            *over, func.coalesce(tasks.c.last_run_ms, tasks.c.created_ms) < now_ms - FIRES_KEPT_MS,
        ))
        delete_old(db, commands, commands.c.at_ms, now_ms - COMMANDS_KEPT_MS)


def _is_free(now_ms: int) -> Any:
    """`not core.tasks.is_held`, in SQL."""
    makes_up_all = and_(tasks.c.catch_up == "all", tasks.c.open_waits.is_(False))
    return or_(tasks.c.open_run == "", tasks.c.open_until_ms <= now_ms, makes_up_all)
