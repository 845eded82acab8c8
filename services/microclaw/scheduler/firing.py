"""Firing what is due, and hearing how it ended: each in one transaction, with what it causes in the outbox.

A fire is a row (task, due time), claimed together with the request that goes out and the task's next time. Killed
before the commit nothing happened; killed after it the outbox still has the request. So each due time runs once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection, Engine

from microclaw.bus.api import Draft
from microclaw.bus.envelope import Envelope
from microclaw.core import tasks
from microclaw.core.groups import is_folder
from microclaw.core.heartbeat import ALWAYS, ActiveHours
from microclaw.core.heartbeat import TASK_ID as HEARTBEAT_ID
from microclaw.core.ids import derived_id, id_from_text, id_time, new_id
from microclaw.core.kinds import ReplyRequested, RunFinished, RunRequested, ScheduledTask, TaskWithdrawn
from microclaw.core.requests import Failed
from microclaw.core.schedule import Plan, ScheduleError, is_missed, not_too_far, plan, zone_named
from microclaw.core.tasks import GROUP_NOT_FOUND, Task
from microclaw.scheduler import store
from microclaw.scheduler.tables import inbox, outbox
from microclaw.store.outbox import Outbox

#: Tasks fired in one transaction, at most.
PASS_TASKS_MAX = 100
#: Of a prompt, in a notice.
PROMPT_SHOWN_CHARS = 60

NO_END = "nobody told how the run ended"

#: Tells the owner, in `status`.
Trouble = Callable[[str], None]


class Firing:
    """Tasks that are due become requests."""

    def __init__(
        self, engine: Engine, *, wall: Callable[[], int], trouble: Trouble, log: logging.Logger | None = None,
        heartbeat_hours: ActiveHours = ALWAYS,
    ) -> None:
        self.outbox = Outbox(engine, outbox, inbox)
        self._engine = engine
        self._wall = wall
        self._trouble = trouble
        self._heartbeat_hours = heartbeat_hours
        self._log = log or logging.getLogger("microclaw.scheduler")

    def due(self) -> list[Task]:
        """What is due now, in order."""
        return store.due_tasks(self._engine, self._wall(), PASS_TASKS_MAX)

    def next_due_ms(self) -> int | None:
        return store.next_due_ms(self._engine, self._wall())

    def fire(self, due: list[Task], folders: frozenset[str] | None) -> int:
        """Fire these, as they stand *now* (one may have been paused since `due`). Returns how many runs were requested.

        `folders` are the registered groups', None = unknown at the moment (then the sandbox will see).
        """
        now = self._wall()
        count = 0
        with self._engine.begin() as db:
            for picked in due:
                task = store.task_of(db, picked.id)
                if task is None or not tasks.due([task], now) or tasks.is_held(task, now):
                    continue
                count += self._fire_one(db, task, now, folders)
        return count

    def fire_now(self, command_id: str, task_id: str, folders: frozenset[str] | None) -> Task | Failed:
        """Run a task now, besides its times. Returns the task, or why not. The same command fires once."""
        now = self._wall()
        with self._engine.begin() as db:
            task = store.task_of(db, task_id)
            if task is None:
                return Failed(reason=f"there is no task {task_id}: `microclaw cron list` shows them", code="not_found")
            if not is_folder(task.group) or (folders is not None and task.group not in folders):
                return Failed(reason=f"{GROUP_NOT_FOUND}: {task.group}", code="conflict")
            if store.answer_to(db, command_id) is not None:
                return task
            if task.open_run and now < task.open_until_ms:
                waits = f"a run of task {task_id} waits already, for something to run in: see `microclaw status`"
                runs = f"task {task_id} is running: wait for its end, or stop it with /stop"
                return Failed(reason=waits if task.open_waits else runs, code="conflict")
            if not store.claim(db, task_id, now, now):
                return Failed(reason=f"task {task_id} has just been fired", code="conflict")
            task = replace(tasks.fired(task, (now,), task.next_run_ms, now), status=task.status)
            store.keep_task(db, task)
            store.keep_answer(db, command_id, b"fired", now)
            draft = _request(task, now, now)
            self.outbox.add(db, draft.message_id or b"", [draft], now_ms=now)
        self._log.info("fired by hand", extra={"task_id": task.id, "group": task.group, "due_ms": now})
        return task

    def _fire_one(self, db: Connection, task: Task, now: int, folders: frozenset[str] | None) -> int:
        due_ms = task.next_run_ms
        if due_ms is None:
            return 0
        if not is_folder(task.group) or (folders is not None and task.group not in folders):
            self._refuse(db, task, due_ms, f"{GROUP_NOT_FOUND}: {task.group}", now)
            return 0
        try:
            zone = zone_named(task.timezone)
            planned = plan(task.schedule, task.value, zone, due_ms, now, task.catch_up)
        except ScheduleError as error:
            self._refuse(db, task, due_ms, str(error), now)
            return 0
        if task.id == HEARTBEAT_ID and not self._heartbeat_hours.hold(now, zone):
            planned = Plan((), planned.next_run_ms)
        claimed = tuple(due for due in planned.fires if store.claim(db, task.id, due, now))
        store.keep_task(db, tasks.fired(task, claimed, planned.next_run_ms, now))
        for due in claimed:
            self._log.info("fired", extra={
                "task_id": task.id, "group": task.group, "due_ms": due, "late_ms": now - due,
            })
        drafts = [_request(task, due, now) for due in claimed]
        for draft in drafts:
            self.outbox.add(db, draft.message_id or b"", [draft], now_ms=now)
        return len(drafts)

    def _refuse(self, db: Connection, task: Task, due_ms: int, error: str, now: int) -> None:
        text = tasks.result_text(False, "", error)
        store.claim(db, task.id, due_ms, now, status=tasks.log_status(False), result=text)
        store.keep_task(db, replace(
            task, status=tasks.Status.PAUSED, last_run_ms=now, last_result=text, last_ok=False,
        ))
        self._trouble(f"task {task.id} of {task.group} is paused: {error}")

    def finished(self, envelope: Envelope) -> bool:
        """A `run.finished`. Returns whether it was one of ours whose end was not known yet."""
        report = envelope.read(RunFinished)
        if report.waiting or report.withdrawn:
            self._not_run(report, envelope.message_id)
            return report.withdrawn
        return self._end(
            report.run_id, ok=report.ok, result=report.result, error=report.error, visible=report.visible,
            skipped=report.skipped, cause=envelope.message_id,
        )

    def _not_run(self, report: RunFinished, cause: bytes) -> None:
        """A fire found nothing to run in and waits, or it was withdrawn. (A cancelled task's is not known any more.)"""
        now = self._wall()
        with self._engine.begin() as db:
            found = store.open_fire(db, report.run_id)
            task = store.task_of(db, found[0]) if found else None
            if found is None or task is None:
                return
            if report.withdrawn:
                why = tasks.PAUSED_RESULT if task.status == tasks.Status.PAUSED else tasks.MISSED_RESULT
                store.end_fire(db, report.run_id, tasks.log_status(True, skipped=True), why, now)
                store.keep_task(db, tasks.withdrawn(task, report.run_id, now))
                return
            store.keep_waiting(db, report.run_id, report.error[:tasks.RESULT_CHARS_MAX])
            store.keep_task(db, tasks.waits(task, now))
            if is_missed(task.schedule, found[1], now, task.catch_up):
                self.outbox.add(db, cause, [withdrawal(task, now)], now_ms=now)

    def give_up(self) -> int:
        """End the fires that nobody told the end of. Returns how many."""
        overdue = store.overdue_runs(self._engine, self._wall())
        for task in overdue:
            self._end(task.open_run, ok=False, result="", error=NO_END, visible=False, skipped=False,
                      cause=id_from_text(task.open_run))
        return len(overdue)

    def _end(
        self, run_id: str, *, ok: bool, result: str, error: str, visible: bool, skipped: bool, cause: bytes
    ) -> bool:
        now = self._wall()
        with self._engine.begin() as db:
            found = store.open_fire(db, run_id)
            if found is None:
                return False
            task = store.task_of(db, found[0])
            text = tasks.result_text(ok, result, error)
            store.end_fire(db, run_id, tasks.log_status(ok, skipped), text, now)
            if task is None:
                return True
            after = tasks.ended(task, run_id, ok=ok, result=result, error=error, now_ms=now)
            store.keep_task(db, after)
            if tasks.tell_failure(task, ok, visible):
                self.outbox.add(db, cause, [_failure_notice(after, run_id, now)], now_ms=now)
        if not ok:
            self._trouble(f"task {task.id} of {task.group} failed: {error}")
        return True

    def forget(self) -> None:
        """Forget what nobody will ask for."""
        store.trim(self._engine, self._wall())
        self.outbox.forget(now_ms=self._wall())

    def clock_went_back(self) -> None:
        """Reckon next times anew if the clock was set back, else tasks would sleep until a time far ahead.

        Nothing fires twice by this: due times that were fired are claimed.
        """
        now = self._wall()
        for task in store.all_tasks(self._engine):
            if task.status != tasks.Status.ACTIVE or task.next_run_ms is None:
                continue
            try:
                sooner = not_too_far(task.schedule, task.value, zone_named(task.timezone), task.next_run_ms, now)
            except ScheduleError:
                continue
            if sooner < task.next_run_ms:
                with self._engine.begin() as db:
                    store.keep_task(db, replace(task, next_run_ms=sooner))


def withdrawal(task: Task, now: int) -> Draft:
    """Take back what was requested for the task and has not begun."""
    payload = TaskWithdrawn(group=task.group, task_id=task.id)
    return Draft(f"group:{task.group}", payload, message_id=new_id(now), ts_ms=now)


def _request(task: Task, due_ms: int, now: int) -> Draft:
    payload = RunRequested(
        group=task.group, chat=task.chat, is_main=task.is_main,
        task=ScheduledTask(
            task_id=task.id, prompt=task.prompt, due_ms=due_ms, context=tasks.context_of(task.context),
            script=task.script, is_heartbeat=task.id == HEARTBEAT_ID,
        ),
    )
    message_id = derived_id(max(due_ms, 0), "task fire", task.id, due_ms)
    return Draft(f"group:{task.group}", payload, message_id=message_id, ts_ms=now)


def _failure_notice(task: Task, run_id: str, now: int) -> Draft:
    prompt = " ".join(task.prompt.split())
    shown = prompt if len(prompt) <= PROMPT_SHOWN_CHARS else prompt[:PROMPT_SHOWN_CHARS - 1] + "…"
    then = {
        tasks.Status.ACTIVE: "I try it again when it is due next.",
        tasks.Status.PAUSED: "It is paused now; resume it when the cause is put right.",
        tasks.Status.COMPLETED: "Ask me again if you still want it.",
    }[tasks.Status(task.status)]
    payload = ReplyRequested(
        chat=task.chat, text=f"Sorry, the scheduled task “{shown}” did not work out. {then}", origin="notice",
        run_id=run_id,
    )
    message_id = derived_id(id_time(id_from_text(run_id)), "task notice", run_id)
    return Draft(task.chat, payload, message_id=message_id, ts_ms=now)
