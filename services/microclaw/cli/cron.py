"""`microclaw cron list|add|edit|rm|enable|disable|run|runs`: scheduled tasks."""

from __future__ import annotations

import argparse
import math
import re
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.numbers import whole
from microclaw.core.errors import UsageError
from microclaw.core.requests import (
    ChangeTask,
    CreateTask,
    FireTask,
    Groups,
    GroupsAsked,
    TaskAnswer,
    TaskRow,
    TaskRuns,
    TaskRunsAsked,
    Tasks,
    TasksAsked,
)
from microclaw.core.schedule import INTERVAL_MS_MAX

_UNITS_MS = {"s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_CHANGES: dict[str, Literal["pause", "resume", "cancel"]] = {"rm": "cancel", "enable": "resume", "disable": "pause"}
_DONE = {"rm": "cancelled", "enable": "enabled", "disable": "disabled"}
#: The word of the command line for each policy.
_CATCH_UP: dict[str, Literal["latest", "skip", "all"]] = {"once": "latest", "skip": "skip", "all": "all"}
_COLOURS = {"success": "green", "error": "red", "skipped": "grey"}
PROMPT_CHARS_SHOWN = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all tasks")
    add = actions.add_parser("add", help="add a task")
    add.add_argument("prompt", metavar="PROMPT", help="what the agent is to do")
    add.add_argument("--group", metavar="FOLDER", help="whose agent does it (default: the main group)")
    _facts(add, new=True)
    edit = actions.add_parser("edit", help="change a task; what is not named stays")
    edit.add_argument("task", metavar="TASK", help="an id from `cron list`")
    edit.add_argument("--prompt", metavar="PROMPT", help="what the agent is to do")
    _facts(edit, new=False)
    for name, text in (("rm", "cancel a task"), ("enable", "let it run again"), ("disable", "let it rest"),
                       ("run", "run it now, besides its times")):
        actions.add_parser(name, help=text).add_argument("task", metavar="TASK", help="an id from `cron list`")
    log = actions.add_parser("runs", help="how its runs ended")
    log.add_argument("task", metavar="TASK", help="an id from `cron list`")
    log.add_argument("--limit", type=whole(1), default=20, metavar="N", help="so many at most (default 20)")


def _facts(parser: argparse.ArgumentParser, *, new: bool) -> None:
    when = parser.add_mutually_exclusive_group(required=new)
    when.add_argument("--at", metavar="TIME", help="once, at this ISO time: 2027-01-31T08:00")
    when.add_argument("--every", metavar="LENGTH", help="again and again: 30s, 15m, 2h, 1d")
    when.add_argument("--cron", metavar="FIELDS", help='five cron fields: "0 8 * * 1-5"')
    parser.add_argument("--tz", metavar="ZONE", help="time zone of --at and --cron" + " (default: the owner's)" * new)
    parser.add_argument(
        "--context", choices=("group", "isolated"),
        help="with or without the group's conversation" + " (default: isolated)" * new,
    )
    parser.add_argument(
        "--catch-up", choices=sorted(_CATCH_UP),
        help="of times that passed while nothing ran: none, one run, or all" + " (default: once)" * new,
    )
    parser.add_argument(
        "--check", metavar="SCRIPT",
        help='shell script that runs in the sandbox first; only if its last line is {"wakeAgent": true} the model is'
             ' asked' + ("" if new else '; "" takes it away'),
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if options.action == "runs":
        return _runs(context, options.task, options.limit)
    if options.action == "run":
        answer = ask(context, FireTask(command_id=uuid.uuid4().hex, task_id=options.task), TaskAnswer)
        done = f"task {answer.task.id} runs now; how it ends: microclaw cron runs {answer.task.id}"
    elif options.action in ("add", "edit"):
        answer = _add(context, options) if options.action == "add" else _edit(context, options)
        done = f"task {answer.task.id}: {_next(answer.task.next_run_ms)}"
    else:
        change = ChangeTask(command_id=uuid.uuid4().hex, task_id=options.task, action=_CHANGES[options.action])
        answer = ask(context, change, TaskAnswer)
        done = f"task {answer.task.id} is {_DONE[options.action]}"
    if context.json:
        context.dump(_as_json([answer.task])[0])
    else:
        context.say(done)
    return 0


def milliseconds(length: str) -> int:
    """`15m` in milliseconds. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", length.strip())
    if not found or float(found[1]) <= 0:
        raise UsageError(f"--every {length!r} is not a length of time; write 30s, 15m, 2h or 1d")
    length_ms = int(float(found[1]) * _UNITS_MS[found[2]])
    if length_ms > INTERVAL_MS_MAX:
        raise UsageError(f"--every {length!r} is longer than ten years")
    return length_ms


def _add(context: Context, options: argparse.Namespace) -> TaskAnswer:
    groups = ask(context, GroupsAsked(), Groups).groups
    wanted = [
        group for group in groups if (group.is_main if options.group is None else group.folder == options.group)
    ]
    if not wanted:
        known = ", ".join(group.folder for group in groups) or "none yet: `microclaw chat` makes the first"
        raise UsageError(f"there is no group {options.group or 'main'!r}; there are: {known}")
    schedule, value = _schedule(options) or ("", "")
    group = wanted[0]
    return ask(
        context,
        CreateTask(
            command_id=uuid.uuid4().hex, group=group.folder, chat=group.chat, prompt=options.prompt, schedule=schedule,
            value=value, timezone=options.tz or "", context=options.context or "isolated", is_main=group.is_main,
            catch_up=_CATCH_UP[options.catch_up or "once"], script=options.check or "",
        ),
        TaskAnswer,
    )


def _edit(context: Context, options: argparse.Namespace) -> TaskAnswer:
    schedule, value = _schedule(options) or (None, None)
    change = ChangeTask(
        command_id=uuid.uuid4().hex, task_id=options.task, action="update", prompt=options.prompt, schedule=schedule,
        value=value, timezone=options.tz, context=options.context, script=options.check,
        catch_up=None if options.catch_up is None else _CATCH_UP[options.catch_up],
    )
    facts = (options.prompt, schedule, options.tz, options.context, options.check, options.catch_up)
    if all(fact is None for fact in facts):
        raise UsageError("nothing to change: name what is to be otherwise, see `microclaw cron edit --help`")
    return ask(context, change, TaskAnswer)


def _schedule(options: argparse.Namespace) -> tuple[str, str] | None:
    """The schedule's name and value, None = none is named."""
    if options.at is not None:
        return "once", options.at
    if options.every is not None:
        return "interval", str(milliseconds(options.every))
    return None if options.cron is None else ("cron", options.cron)


def _runs(context: Context, task: str, limit: int) -> int:
    found = ask(context, TaskRunsAsked(task_id=task, limit=limit), TaskRuns).runs
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say(f"task {task} has not run yet")
    else:
        context.table(
            ("DUE", "STATUS", "TOOK", "RESULT"),
            [
                (
                    _moment(row.due_ms), row.status,
                    "-" if row.ended_ms is None else duration((row.ended_ms - row.fired_ms) / 1000),
                    _short(row.result) or "-",
                )
                for row in found
            ],
            [_COLOURS.get(row.status, "yellow") for row in found],
        )
    return 0


def _list(context: Context) -> int:
    tasks = ask(context, TasksAsked(), Tasks).tasks
    if context.json:
        context.dump(_as_json(tasks))
    elif not tasks:
        context.say('no tasks; add one: microclaw cron add "tell me the weather" --cron "0 8 * * *"')
    else:
        colours = ["green" if task.status == "active" else "grey" for task in tasks]
        context.table(
            ("TASK", "GROUP", "WHEN", "NEXT", "STATUS", "PROMPT"),
            [
                (
                    task.id, task.group, _when(task),
                    _moment(task.next_run_ms if task.status == "active" else None), task.status,
                    _short(f"(checked first) {task.prompt}" if task.script else task.prompt),
                )
                for task in tasks
            ],
            colours,
        )
    return 0


def _as_json(tasks: Sequence[TaskRow]) -> list[object]:
    """With the policies in the words of `--catch-up`."""
    words = {policy: word for word, policy in _CATCH_UP.items()}
    return [msgspec.to_builtins(task) | {"catch_up": words[task.catch_up]} for task in tasks]


def _when(task: TaskRow) -> str:
    if task.schedule == "interval":
        return f"every {duration(int(task.value) / 1000)}"
    return "once" if task.schedule == "once" else f"{task.value} ({task.timezone})"


def _next(ts_ms: int | None) -> str:
    if ts_ms is not None and ts_ms <= time.time() * 1000:
        return f"due at once: {_moment(ts_ms)} has passed"
    return f"next {_moment(ts_ms)}"


def _moment(ts_ms: int | None) -> str:
    if ts_ms is None:
        return "-"
    moment = datetime.fromtimestamp(ts_ms / 1000).astimezone()
    wait_s = ts_ms / 1000 - time.time()
    return f"in {duration(math.ceil(wait_s))}" if 0 <= wait_s < 3600 else f"{moment:%Y-%m-%d %H:%M}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= PROMPT_CHARS_SHOWN else line[: PROMPT_CHARS_SHOWN - 1] + "…"
