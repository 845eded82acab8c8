"""What a group's agent is shown of tasks and of chats."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case, Unmapped

from microclaw.core.groups import MAIN_FOLDER
from microclaw.core.policy import visible_chats, visible_tasks
from microclaw.core.requests import KnownChat, TaskRow

#: Facts of a task that decide nothing about who sees it.
_SHOWN = ("prompt", "status")


def answer(case: Case) -> dict[str, Any]:
    case.knows("tasks", "known_groups", "viewer")
    viewer = case.need("viewer")
    is_main = viewer == MAIN_FOLDER
    if "tasks" in case.given:
        unknown = sorted({key for task in case.given["tasks"] for key in task} - {"id", "folder", *_SHOWN})
        if unknown:
            raise Unmapped(f"tasks: {', '.join(unknown)}")
        rows = [_task(str(number), task) for number, task in enumerate(case.given["tasks"])]
        seen = visible_tasks(rows, viewer, is_main)
        ids = [case.given["tasks"][int(row.id)]["id"] for row in seen]
        return {"ids": ids, "count": len(ids)}
    if "known_groups" in case.given:
        known = case.given["known_groups"]
        names = [f"G{number}" for number in range(known)] if isinstance(known, int) else list(known)
        chats = [
            KnownChat(chat=f"test:{number}", name=name, last_message_ms=-number, is_group=True, registered=False)
            for number, name in enumerate(names)
        ]
        seen_chats = visible_chats(chats, is_main)
        return {"groups": [chat.name for chat in seen_chats], "count": len(seen_chats)}
    raise Unmapped("neither tasks nor groups")


def _task(id: str, task: dict[str, Any]) -> TaskRow:
    folder = task["folder"]
    return TaskRow(
        id=id, group=folder, chat=f"test:{folder}", prompt=task.get("prompt", "p"), schedule="once", value="",
        timezone="UTC", context="isolated", status=task.get("status", "active"), next_run_ms=None,
    )
