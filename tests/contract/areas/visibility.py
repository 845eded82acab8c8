"""What a group's agent is shown of tasks and of chats."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case, Unmapped

from microclaw.core.groups import MAIN_FOLDER
from microclaw.core.policy import visible_chats, visible_tasks
from microclaw.core.requests import KnownChat, TaskRow


def answer(case: Case) -> dict[str, Any]:
    case.knows("tasks", "known_groups", "viewer")
    viewer = case.need("viewer")
    is_main = viewer == MAIN_FOLDER
    if "tasks" in case.given:
        rows = [_task(str(number), task["folder"]) for number, task in enumerate(case.given["tasks"])]
        seen = visible_tasks(rows, viewer, is_main)
        ids = [case.given["tasks"][int(row.id)]["id"] for row in seen]
        return {"ids": ids, "count": len(ids)}
    if "known_groups" in case.given:
        chats = [
            KnownChat(chat=f"test:{number}", name=f"G{number}", last_message_ms=number, is_group=True, registered=False)
            for number in range(case.given["known_groups"])
        ]
        seen_chats = visible_chats(chats, is_main)
        return {"groups": [chat.chat for chat in seen_chats], "count": len(seen_chats)}
    raise Unmapped("neither tasks nor groups")


def _task(id: str, folder: str) -> TaskRow:
    return TaskRow(
        id=id, group=folder, chat=f"test:{folder}", prompt="p", schedule="once", value="", timezone="UTC",
        context="isolated", status="active", next_run_ms=None,
    )
