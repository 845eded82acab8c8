"""Keeps the heartbeat's task as the configuration wants it: one for the main group, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Engine

from microclaw.core.heartbeat import PROMPT, TASK_ID
from microclaw.core.requests import Group
from microclaw.core.schedule import CatchUp, Schedule
from microclaw.core.tasks import Task
from microclaw.scheduler import store

MINUTE_MS = 60_000


def keep_heartbeat(engine: Engine, main: Group | None, every_min: int, zone: str, wall: Callable[[], int]) -> bool:
    """Make, change or drop it. One that the owner paused stays so. Returns whether anything changed.

    :param main: the main group; None = there is none yet.
    :param every_min: 0 = no heartbeat.
    """
    with engine.begin() as db:
        task = store.task_of(db, TASK_ID)
        if every_min == 0:
            if task is not None:
                store.drop_task(db, TASK_ID)
            return task is not None
        if main is None:
            return False
        every_ms = every_min * MINUTE_MS
        wanted = Task(
            id=TASK_ID, group=main.folder, chat=main.chat, is_main=True, prompt=PROMPT, schedule=Schedule.INTERVAL,
            value=str(every_ms), timezone=zone, context="isolated", catch_up=CatchUp.SKIP, created_ms=wall(),
            next_run_ms=wall() + every_ms,
        )
        if task is None:
            store.add_task(db, wanted)
            return True
        changed = replace(
            task, group=wanted.group, chat=wanted.chat, is_main=True, prompt=PROMPT, value=wanted.value,
            timezone=zone, next_run_ms=task.next_run_ms if task.value == wanted.value else wanted.next_run_ms,
        )
        if changed != task:
            store.keep_task(db, changed)
        return changed != task
