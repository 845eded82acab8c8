"""Making, changing and listing tasks. A repeated command gets its first answer and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from sqlalchemy import Connection, Engine

from microclaw.core import tasks
from microclaw.core.errors import MicroclawError
from microclaw.core.groups import is_chat, is_folder
from microclaw.core.heartbeat import TASK_ID as HEARTBEAT_ID
from microclaw.core.requests import (
    ChangeTask,
    CreateTask,
    Failed,
    TaskAnswer,
    TaskRow,
    TaskRunRow,
    TaskRuns,
    TaskRunsAsked,
    Tasks,
    TasksAsked,
)
from microclaw.core.schedule import VALUE_CHARS_MAX, first_run, zone_named
from microclaw.core.tasks import PROMPT_CHARS_MAX, SCRIPT_CHARS_MAX, TASKS_MAX, Task
from microclaw.scheduler import store
from microclaw.scheduler.firing import withdrawal
from microclaw.store.outbox import Outbox

#: A command's id, at most; and at least 1.
COMMAND_ID_CHARS_MAX = 200
#: Runs of a task in one answer.
RUNS_SHOWN_MAX = 500

Answer = TaskAnswer | Failed


class Commands:
    """The scheduler's answers.

    :param outbox: takes what a change causes.
    :param owner_zone: the IANA name of the zone that is meant where none is said.
    """

    def __init__(self, engine: Engine, outbox: Outbox, *, wall: Callable[[], int], owner_zone: str) -> None:
        self._engine = engine
        self._outbox = outbox
        self._wall = wall
        self._owner_zone = owner_zone

    def create(self, command: CreateTask) -> Answer:
        answer = self._once(command.command_id, lambda db: self._create(db, command))
        if isinstance(answer, TaskAnswer):
            with self._engine.begin() as db:
                if store.task_of(db, answer.task.id) is None:
                    return Failed(
                        reason=f"task {answer.task.id} was made by this request and cancelled since: "
                               "ask anew, or in other words",
                        code="conflict",
                    )
        return answer

    def change(self, command: ChangeTask) -> Answer:
        return self._once(command.command_id, lambda db: self._change(db, command))

    def list(self, question: TasksAsked) -> Tasks:
        shown = tasks.visible(store.all_tasks(self._engine), question.viewer, question.viewer_is_main)
        return Tasks(tasks=tuple(row_of(task) for task in shown))

    def runs(self, question: TaskRunsAsked) -> TaskRuns | Failed:
        """The log of a task."""
        limit = max(1, min(question.limit, RUNS_SHOWN_MAX))
        with self._engine.begin() as db:
            if store.task_of(db, question.task_id) is None:
                return Failed(
                    reason=f"there is no task {question.task_id}: `microclaw cron list` shows them", code="not_found"
                )
        return TaskRuns(runs=tuple(
            TaskRunRow(
                due_ms=row.due_ms, fired_ms=row.fired_ms, ended_ms=row.ended_ms, status=row.status, result=row.result,
                run_id=row.run_id,
            )
            for row in store.log_of(self._engine, question.task_id, limit)
        ))

    def _once(self, command_id: str, take: Callable[[Connection], Answer]) -> Answer:
        if not 0 < len(command_id) <= COMMAND_ID_CHARS_MAX:
            return Failed(reason=f"command_id must have 1 to {COMMAND_ID_CHARS_MAX} characters")
        with self._engine.begin() as db:
            known = store.answer_to(db, command_id)
            if known is not None:
                return msgspec.msgpack.decode(known, type=TaskAnswer)
            try:
                answer = take(db)
            except MicroclawError as error:
                # A refusal changed nothing and is not remembered: the same command may work later.
                code: Literal["conflict", "bad_request"] = (
                    "conflict" if isinstance(error, tasks.TaskStateError) else "bad_request"
                )
                return Failed(reason=str(error), code=code)
            if isinstance(answer, TaskAnswer):
                store.keep_answer(db, command_id, msgspec.msgpack.encode(answer), self._wall())
            return answer

    def _create(self, db: Connection, command: CreateTask) -> Answer:
        now = self._wall()
        if not is_folder(command.group):
            return Failed(reason=f"{command.group!r} is no group's folder: name a registered group")
        if not is_chat(command.chat):
            return Failed(reason=f"{command.chat!r} is no chat: write channel:id")
        if (failed := _check(command.prompt, command.value, command.script)) is not None:
            return failed
        if store.count_of(db, command.group) >= TASKS_MAX:
            return Failed(reason=f"{command.group} has {TASKS_MAX} tasks already: cancel one first", code="conflict")
        timezone = command.timezone or self._owner_zone
        task = Task(
            id=tasks.task_id_of(command.command_id), group=command.group, chat=command.chat, is_main=command.is_main,
            prompt=command.prompt, schedule=command.schedule, value=command.value.strip(), timezone=timezone,
            context=command.context, catch_up=command.catch_up, script=command.script.strip(), created_ms=now,
            next_run_ms=first_run(command.schedule, command.value, zone_named(timezone), now),
        )
        store.add_task(db, task)
        return TaskAnswer(task=row_of(task))

    def _change(self, db: Connection, command: ChangeTask) -> Answer:
        task = store.task_of(db, command.task_id)
        if task is None:
            return Failed(
                reason=f"there is no task {command.task_id}: `microclaw cron list` shows them", code="not_found"
            )
        if not tasks.may_change(command.viewer, command.viewer_is_main, task.group):
            return Failed(
                reason=f"{command.viewer} may not {command.action} a task of another group: ask the owner",
                code="denied",
            )
        if task.id == HEARTBEAT_ID and command.action in ("cancel", "update"):
            return Failed(
                reason="the heartbeat is the configuration's: `microclaw config set heartbeat.every_min 0` ends it",
                code="denied",
            )
        if command.action in ("cancel", "pause") and task.open_run:
            draft = withdrawal(task, self._wall())
            self._outbox.add(db, draft.message_id or b"", [draft], now_ms=self._wall())
        if command.action == "cancel":
            store.drop_task(db, task.id)
            return TaskAnswer(task=row_of(task))
        changed = self._changed(task, command)
        if isinstance(changed, Failed):
            return changed
        store.keep_task(db, changed)
        return TaskAnswer(task=row_of(changed))

    def _changed(self, task: Task, command: ChangeTask) -> Task | Failed:
        now, zone = self._wall(), zone_named(command.timezone or task.timezone)
        if command.action == "pause":
            return tasks.paused(task)
        if command.action == "resume":
            return tasks.resumed(task, now, zone)
        value = None if command.value is None else command.value.strip()
        script = None if command.script is None else command.script.strip()
        if (failed := _check(command.prompt, value, script)) is not None:
            return failed
        return tasks.updated(
            task, now, zone, prompt=command.prompt, schedule=command.schedule, value=value, catch_up=command.catch_up,
            script=script, context=command.context,
        )


def _check(prompt: str | None, value: str | None, script: str | None) -> Failed | None:
    if prompt is not None and not prompt.strip():
        return Failed(reason="the task's prompt is empty: say what is to be done")
    if prompt is not None and len(prompt) > PROMPT_CHARS_MAX:
        return Failed(reason=f"the task's prompt is longer than {PROMPT_CHARS_MAX} characters: put it into a file")
    if value is not None and len(value) > VALUE_CHARS_MAX:
        return Failed(reason=f"the schedule is longer than {VALUE_CHARS_MAX} characters")
    if script is not None and len(script) > SCRIPT_CHARS_MAX:
        return Failed(reason=f"the script is longer than {SCRIPT_CHARS_MAX} characters: put it into a file and call it")
    return None


def row_of(task: Task) -> TaskRow:
    """The task as it is shown."""
    return TaskRow(
        id=task.id, group=task.group, chat=task.chat, prompt=task.prompt, value=task.value, timezone=task.timezone,
        schedule=_word(task.schedule, "once", "interval", "cron"),  # type: ignore[arg-type]
        context=tasks.context_of(task.context),
        status=_word(task.status, "paused", "active", "completed"),  # type: ignore[arg-type]
        catch_up=_word(task.catch_up, "latest", "skip", "all"),  # type: ignore[arg-type]
        next_run_ms=task.next_run_ms, last_run_ms=task.last_run_ms, last_result=task.last_result,
        created_ms=task.created_ms, script=task.script,
    )


def _word(found: str, *known: str) -> str:
    """A word of a closed set; one that was damaged by hand shows as the first."""
    return found if found in known else known[0]
