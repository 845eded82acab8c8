"""What becomes of tasks: who sees and changes them, when they fire, what is kept of a run.

Pure: tasks go in, tasks come out; the scheduler service keeps them. When a task is due is `core.schedule`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal
from zoneinfo import ZoneInfo

from microclaw.core.errors import MicroclawError
from microclaw.core.ids import derived_id, id_text

#: Of a run's result, kept and shown.
RESULT_CHARS_MAX = 200
#: Longest prompt of a task.
PROMPT_CHARS_MAX = 32_000
#: Longest script of a task.
SCRIPT_CHARS_MAX = 16_000
#: Tasks that a group may have.
TASKS_MAX = 500
#: A fire whose end nobody told is given up after this. The queue gives up a lost run much earlier and says so: this
#: only keeps a task from standing still for ever.
OPEN_MS_MAX = 6 * 3600 * 1000

#: How the error of a run begins whose group is no more; it pauses the task.
GROUP_NOT_FOUND = "Group not found"
#: What is kept of a run that said nothing.
SILENT_RESULT = "Completed"
#: And of one whose script found nothing to do.
SKIPPED_RESULT = "skipped by check"
#: Of one that had not begun when its task was paused, and of one that found nothing to run in at its time.
PAUSED_RESULT = "paused before it began"
MISSED_RESULT = "nothing to run it in at its time"

#: The session that a task runs in: the group's conversation, or an empty one of its own.
Context = Literal["group", "isolated"]


class Status(StrEnum):
    """Where a task stands."""

    #: It fires when it is due.
    ACTIVE = "active"
    #: It does not fire until it is resumed.
    PAUSED = "paused"
    #: It has no next time.
    COMPLETED = "completed"


class TaskStateError(MicroclawError):
    """The task's state does not allow that."""

    def __init__(self, task_id: str, action: str, expected: str, got: str, todo: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"task {task_id} can't {action}: it must be {expected} and is {got}; {todo}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as the scheduler keeps it."""

    id: str
    group: str
    chat: str
    prompt: str
    schedule: str
    value: str
    timezone: str
    is_main: bool = False
    context: str = "isolated"
    catch_up: str = "latest"
    #: Runs first, and decides whether the model is asked; "" = it always is.
    script: str = ""
    status: str = Status.ACTIVE
    #: None = never again.
    next_run_ms: int | None = None
    last_run_ms: int | None = None
    last_result: str = ""
    #: The last run that ended went well; None = none ended yet.
    last_ok: bool | None = None
    created_ms: int = 0
    #: The newest fire whose end is awaited, "" = none.
    open_run: str = ""
    #: That fire is given up then.
    open_until_ms: int = 0
    #: It, or an older one, waits for something to run in.
    open_waits: bool = False


def task_id_of(command_id: str) -> str:
    """The id of the task that this command makes: the same command makes the same task."""
    return f"task-{derived_id(0, 'task', command_id)[6:].hex()[:16]}"


def task_run_id(task_id: str, due_ms: int) -> str:
    """The run of this fire. Scheduler and queue both know it without telling each other."""
    return id_text(derived_id(max(due_ms, 0), "task run", task_id, due_ms))


def context_of(given: object) -> Context:
    """The context that somebody asks for. Who asks for none, or for one nobody knows, gets the one that knows less."""
    return "group" if given == "group" else "isolated"


# --- who -----------------------------------------------------------------------------------------------------------


def may_see(viewer: str, viewer_is_main: bool, group: str) -> bool:
    """Whether a group (`viewer`, "" = the owner) sees the tasks of another one."""
    return viewer == "" or viewer_is_main or viewer == group


def may_change(viewer: str, viewer_is_main: bool, group: str) -> bool:
    """Whether a group may pause, resume, cancel or update them."""
    return may_see(viewer, viewer_is_main, group)


def visible(tasks: Iterable[Task], viewer: str, viewer_is_main: bool) -> list[Task]:
    """What a viewer is shown: newest first."""
    seen = [task for task in tasks if may_see(viewer, viewer_is_main, task.group)]
    return sorted(seen, key=lambda task: (-task.created_ms, task.id))


# --- when ----------------------------------------------------------------------------------------------------------


def due(tasks: Iterable[Task], now_ms: int) -> list[Task]:
    """Active tasks whose time has come, the earliest first, equal ones by id."""
    found = [(task.next_run_ms, task.id, task) for task in tasks
             if task.status == Status.ACTIVE and task.next_run_ms is not None and task.next_run_ms <= now_ms]
    return [task for _, _, task in sorted(found, key=lambda entry: entry[:2])]


def is_held(task: Task, now_ms: int) -> bool:
    """Whether a due task waits for the end of its own last run: it never overtakes itself, save to make up all. While
    there is nothing to run in that makes none sooner: what falls due is made up then, and does not pile up."""
    return bool(task.open_run) and now_ms < task.open_until_ms and (task.catch_up != "all" or task.open_waits)


def fired(task: Task, fires: tuple[int, ...], next_run_ms: int | None, now_ms: int) -> Task:
    """The task after these due times were fired."""
    moved = replace(task, next_run_ms=next_run_ms)
    if not fires:
        return moved if next_run_ms is not None else replace(moved, status=Status.COMPLETED)
    return replace(moved, open_run=task_run_id(task.id, fires[-1]), open_until_ms=now_ms + OPEN_MS_MAX)


def waits(task: Task, now_ms: int) -> Task:
    """The task after a run of it found nothing to run in: that is no end, however often it comes."""
    return replace(task, open_until_ms=now_ms + OPEN_MS_MAX, open_waits=True)


def withdrawn(task: Task, run_id: str, now_ms: int) -> Task:
    """The task after a fire of it was withdrawn before it began. A `once` (that is paused) runs when it is resumed."""
    from microclaw.core.schedule import Schedule

    is_open = task.open_run == run_id
    return replace(
        task, next_run_ms=now_ms if task.schedule == Schedule.ONCE else task.next_run_ms, open_waits=False,
        open_run="" if is_open else task.open_run, open_until_ms=0 if is_open else task.open_until_ms,
    )


# --- what is kept of a run -----------------------------------------------------------------------------------------


def result_text(ok: bool, result: str | None, error: str | None) -> str:
    """What is kept of a run: the beginning of what it said, `Completed`, or `Error: …`."""
    text = (result or SILENT_RESULT) if ok else f"Error: {error or 'unknown'}"
    return text[:RESULT_CHARS_MAX]


def log_status(ok: bool, skipped: bool = False) -> str:
    """The word for it in the log."""
    if not ok:
        return "error"
    return "skipped" if skipped else "success"


def status_after_run(status: str, next_run_ms: int | None, error: str | None = None) -> str:
    """Where a task stands when a run ended: completed if there is no next time, paused if its group is gone, else as
    before (one that was paused meanwhile stays so)."""
    if error is not None and error.startswith(GROUP_NOT_FOUND):
        return Status.PAUSED
    return Status.COMPLETED if next_run_ms is None else status


def ended(task: Task, run_id: str, *, ok: bool, result: str, error: str, now_ms: int) -> Task:
    """The task after a run of it ended."""
    is_open = task.open_run == run_id
    return replace(
        task, status=status_after_run(task.status, task.next_run_ms, None if ok else error),
        last_run_ms=now_ms, last_result=result_text(ok, result, error), last_ok=ok,
        open_run="" if is_open else task.open_run, open_until_ms=0 if is_open else task.open_until_ms,
        open_waits=False,
    )


def tell_failure(task: Task, ok: bool, visible: bool) -> bool:
    """Whether the chat should hear of a failed run: of the first one in a row, if it said nothing itself."""
    return not ok and not visible and task.last_ok is not False


# --- changes -------------------------------------------------------------------------------------------------------


def paused(task: Task) -> Task:
    """:raises TaskStateError: it is completed."""
    if task.status == Status.COMPLETED:
        raise TaskStateError(task.id, "be paused", Status.ACTIVE, task.status, "it will not run again anyway")
    return replace(task, status=Status.PAUSED)


def resumed(task: Task, now_ms: int, zone: ZoneInfo) -> Task:
    """Active again. Times that passed in the pause are not made up; a `once` that did not run yet runs late.

    :raises TaskStateError: it is completed, or has no time left.
    :raises ScheduleError: its schedule is damaged.
    """
    from microclaw.core.schedule import Schedule, next_run

    if task.status == Status.COMPLETED or (task.schedule == Schedule.ONCE and task.next_run_ms is None):
        raise TaskStateError(
            task.id, "be resumed", Status.PAUSED, Status.COMPLETED, "give it a new time with an update"
        )
    following = task.next_run_ms
    if task.schedule != Schedule.ONCE and (following is None or following <= now_ms):
        was_due = task.created_ms if following is None else following
        following = next_run(task.schedule, task.value, zone, was_due, now_ms)
    return replace(task, status=Status.ACTIVE, next_run_ms=following)


def updated(
    task: Task, now_ms: int, zone: ZoneInfo, *, prompt: str | None = None, schedule: str | None = None,
    value: str | None = None, catch_up: str | None = None, script: str | None = None, context: str | None = None,
) -> Task:
    """With these fields changed. A new schedule or zone starts from now, and wakes a completed task; a paused one stays
    so. `zone` is the one that holds afterwards.

    :raises ScheduleError: the new schedule can't be.
    """
    from microclaw.core.schedule import first_run

    task = replace(
        task, prompt=task.prompt if prompt is None else prompt,
        catch_up=task.catch_up if catch_up is None else catch_up,
        script=task.script if script is None else script, context=task.context if context is None else context,
    )
    if schedule is None and value is None and zone.key == task.timezone:
        return task
    task = replace(task, timezone=zone.key)
    schedule, value = schedule or task.schedule, task.value if value is None else value
    status = Status.ACTIVE if task.status == Status.COMPLETED else task.status
    return replace(
        task, schedule=schedule, value=value, status=status, next_run_ms=first_run(schedule, value, zone, now_ms),
    )
