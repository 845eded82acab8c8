"""What is asked of the scheduler: tasks and their runs."""

from __future__ import annotations

from typing import Literal

import msgspec

from microclaw.core.requests.asking import Request


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is shown. `schedule` is `once` (ISO time), `interval` (ms) or `cron` (five fields)."""

    id: str
    group: str
    chat: str
    prompt: str
    schedule: Literal["once", "interval", "cron"]
    value: str
    timezone: str
    context: Literal["group", "isolated"]
    status: Literal["active", "paused", "completed"]
    next_run_ms: int | None
    last_run_ms: int | None = None
    last_result: str = ""
    created_ms: int = 0
    #: What becomes of missed times: one run for the latest, none, or all (`core.schedule.CatchUp`).
    catch_up: Literal["latest", "skip", "all"] = "latest"
    #: Decides before each run whether the model is asked; "" = it always is.
    script: str = ""


class CreateTask(Request, frozen=True, kw_only=True, tag="tasks.create"):
    """To the scheduler. `timezone` "" = the owner's. Answer: TaskAnswer or Failed."""

    command_id: str
    group: str
    chat: str
    prompt: str
    schedule: str
    value: str
    timezone: str = ""
    context: Literal["group", "isolated"] = "isolated"
    is_main: bool = False
    catch_up: Literal["latest", "skip", "all"] = "latest"
    script: str = ""


class ChangeTask(Request, frozen=True, kw_only=True, tag="tasks.change"):
    """To the scheduler. `viewer` is the group that asks, "" = the owner; a group may change only its own tasks unless
    `viewer_is_main`. Fields left None stay. Answer: TaskAnswer or Failed."""

    command_id: str
    task_id: str
    action: Literal["pause", "resume", "cancel", "update"]
    viewer: str = ""
    viewer_is_main: bool = False
    prompt: str | None = None
    schedule: str | None = None
    value: str | None = None
    catch_up: Literal["latest", "skip", "all"] | None = None
    context: Literal["group", "isolated"] | None = None
    timezone: str | None = None
    #: "" = none any more.
    script: str | None = None


class TasksAsked(Request, frozen=True, kw_only=True, tag="tasks.list"):
    """To the scheduler. A group sees its own tasks, main and the owner (viewer "") see all."""

    viewer: str = ""
    viewer_is_main: bool = False


class FireTask(Request, frozen=True, kw_only=True, tag="tasks.fire"):
    """To the scheduler: run this task now, besides its times. Answer: TaskAnswer or Failed."""

    command_id: str
    task_id: str


class TaskRunsAsked(Request, frozen=True, kw_only=True, tag="tasks.runs"):
    """To the scheduler: the runs of a task, the newest first. Answer: TaskRuns or Failed."""

    task_id: str
    limit: int = 50


class TaskRunRow(msgspec.Struct, frozen=True, kw_only=True):
    due_ms: int
    fired_ms: int
    #: None = it is under way.
    ended_ms: int | None
    #: `fired`, or `waiting` (there is nothing to run it in: `result` says why), then `success`, `error` or `skipped`
    #: (no model was asked: there was nothing to do, or it was paused or missed before it began).
    status: str
    result: str
    run_id: str


class TaskRuns(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.runs.answer"):
    runs: tuple[TaskRunRow, ...]


class TaskAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.answer"):
    task: TaskRow


class Tasks(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.list.answer"):
    tasks: tuple[TaskRow, ...]
