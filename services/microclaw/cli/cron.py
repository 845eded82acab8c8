"""`microclaw cron list|add|rm|enable|disable|run|runs`: scheduled tasks."""

from __future__ import annotations

import argparse
import re
import time
import uuid
from datetime import datetime
from typing import Literal

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
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

_UNITS_MS = {"s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_CHANGES: dict[str, Literal["pause", "resume", "cancel"]] = {"rm": "cancel", "enable": "resume", "disable": "pause"}
_DONE = {"rm": "cancelled", "enable": "enabled", "disable": "disabled"}
PROMPT_CHARS_SHOWN = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all tasks")
    add = actions.add_parser("add", help="add a task")
    add.add_argument("prompt", metavar="PROMPT", help="what the agent is to do")
    when = add.add_mutually_exclusive_group(required=True)
    when.add_argument("--at", metavar="TIME", help="once, at this ISO time: 2027-01-31T08:00")
    when.add_argument("--every", metavar="LENGTH", help="again and again: 30s, 15m, 2h, 1d")
    when.add_argument("--cron", metavar="FIELDS", help='five cron fields: "0 8 * * 1-5"')
    add.add_argument("--tz", default="", metavar="ZONE", help="time zone of --at and --cron (default: the owner's)")
    add.add_argument("--group", metavar="FOLDER", help="whose agent does it (default: the main group)")
    add.add_argument(
        "--context", choices=("group", "isolated"), default="isolated", help="with or without the group's conversation"
    )
    for name, text in (("rm", "cancel a task"), ("enable", "let it run again"), ("disable", "let it rest"),
                       ("run", "run it now, besides its times")):
        actions.add_parser(name, help=text).add_argument("task", metavar="TASK", help="an id from `cron list`")
    log = actions.add_parser("runs", help="how its runs ended")
    log.add_argument("task", metavar="TASK", help="an id from `cron list`")
    log.add_argument("--limit", type=int, default=20, metavar="N", help="so many at most (default 20)")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if options.action == "runs":
        return _runs(context, options.task, options.limit)
    if options.action == "run":
        answer = ask(context, FireTask(command_id=uuid.uuid4().hex, task_id=options.task), TaskAnswer)
        done = f"task {answer.task.id} runs now; how it ends: microclaw cron runs {answer.task.id}"
    elif options.action == "add":
        answer = _add(context, options)
        done = f"task {answer.task.id}: next {_moment(answer.task.next_run_ms)}"
    else:
        change = ChangeTask(command_id=uuid.uuid4().hex, task_id=options.task, action=_CHANGES[options.action])
        answer = ask(context, change, TaskAnswer)
        done = f"task {answer.task.id} is {_DONE[options.action]}"
    if context.json:
        context.dump(rows([answer.task])[0])
    else:
        context.say(done)
    return 0


def milliseconds(length: str) -> int:
    """`15m` in milliseconds. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", length.strip())
    if not found or float(found[1]) <= 0:
        raise UsageError(f"--every {length!r} is not a length of time; write 30s, 15m, 2h or 1d")
    return int(float(found[1]) * _UNITS_MS[found[2]])


def _add(context: Context, options: argparse.Namespace) -> TaskAnswer:
    groups = ask(context, GroupsAsked(), Groups).groups
    wanted = [
        group for group in groups if (group.is_main if options.group is None else group.folder == options.group)
    ]
    if not wanted:
        known = ", ".join(group.folder for group in groups) or "none yet: `microclaw chat` makes the first"
        raise UsageError(f"there is no group {options.group or 'main'!r}; there are: {known}")
    if options.at:
        schedule, value = "once", options.at
    elif options.every:
        schedule, value = "interval", str(milliseconds(options.every))
    else:
        schedule, value = "cron", options.cron
    group = wanted[0]
    return ask(
        context,
        CreateTask(
            command_id=uuid.uuid4().hex, group=group.folder, chat=group.chat, prompt=options.prompt, schedule=schedule,
            value=value, timezone=options.tz, context=options.context, is_main=group.is_main,
        ),
        TaskAnswer,
    )


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
            ["green" if row.status == "success" else "red" if row.status == "error" else "yellow" for row in found],
        )
    return 0


def _list(context: Context) -> int:
    tasks = ask(context, TasksAsked(), Tasks).tasks
    if context.json:
        context.dump(rows(tasks))
    elif not tasks:
        context.say('no tasks; add one: microclaw cron add "tell me the weather" --cron "0 8 * * *"')
    else:
        colours = ["green" if task.status == "active" else "grey" for task in tasks]
        context.table(
            ("TASK", "GROUP", "WHEN", "NEXT", "STATUS", "PROMPT"),
            [
                (task.id, task.group, _when(task), _moment(task.next_run_ms), task.status, _short(task.prompt))
                for task in tasks
            ],
            colours,
        )
    return 0


def _when(task: TaskRow) -> str:
    if task.schedule == "interval":
        return f"every {duration(int(task.value) / 1000)}"
    return "once" if task.schedule == "once" else f"{task.value} ({task.timezone})"


def _moment(ts_ms: int | None) -> str:
    if ts_ms is None:
        return "-"
    moment = datetime.fromtimestamp(ts_ms / 1000).astimezone()
    wait_s = ts_ms / 1000 - time.time()
    return f"in {duration(wait_s)}" if 0 <= wait_s < 3600 else f"{moment:%Y-%m-%d %H:%M}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= PROMPT_CHARS_SHOWN else line[: PROMPT_CHARS_SHOWN - 1] + "…"
