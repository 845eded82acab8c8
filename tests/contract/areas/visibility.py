"""What a group's agent is shown of tasks and of chats when it asks for them. (The original writes both into its folder
before each run.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.contract.areas.house_words import chat_of
from tests.contract.house import House, house
from tests.contract.rows import Case, Unmapped

from microclaw.core.groups import MAIN_FOLDER
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import TaskAnswer

#: What our word for a task's field is in the original's snapshot.
_FOLDER = ("folder", "groupFolder", "group_folder")
#: Facts of a task that decide nothing about who sees it.
_SHOWN = ("prompt", "status", "schedule_type", "schedule_value", "next_run", "context_mode")


async def answer(case: Case) -> dict[str, Any]:
    case.knows("tasks", "known_groups", "viewer", "is_main")
    viewer = case.need("viewer")
    is_main = case.given.get("is_main", viewer == MAIN_FOLDER)
    async with house() as made:
        if "tasks" in case.given:
            return await _tasks(made, case.given["tasks"], viewer, is_main)
        if "known_groups" in case.given:
            known = case.given["known_groups"]
            names = [f"G{number}" for number in range(known)] if isinstance(known, int) else list(known)
            return await _groups(made, names, viewer, is_main)
    raise Unmapped("neither tasks nor groups")


async def _tasks(made: House, tasks: list[dict[str, Any]], viewer: str, is_main: bool) -> dict[str, Any]:
    ids: dict[str, Any] = {}
    for task in tasks:
        unknown = sorted(set(task) - {"id", *_FOLDER, *_SHOWN})
        if unknown:
            raise Unmapped(f"tasks: {', '.join(unknown)}")
        folder = next(task[name] for name in _FOLDER if name in task)
        kept = made.clock.try_create(
            "interval", "600000", group=folder, chat=chat_of(folder), prompt=task.get("prompt", "p")
        )
        assert isinstance(kept, TaskAnswer)
        if task.get("status") == "paused":
            made.clock.change(kept.task.id, "pause", viewer=folder)
        ids[kept.task.id] = task["id"]
    seen = await _told(made, "list_tasks", viewer, is_main)
    shown = {row["id"] for row in seen or []}
    # In the order of the row: how a list is ordered is told elsewhere.
    return {"ids": [ids[each] for each in ids if each in shown], "count": len(shown)}


async def _groups(made: House, names: list[str], viewer: str, is_main: bool) -> dict[str, Any]:
    for number, name in enumerate(names):
        await made.hears(MessageReceived(
            chat=chat_of(f"{number}@g.us"), platform_id="1", sender="x", sender_name="X", text="hi", chat_name=name,
            sent_ms=1_000_000 - number, is_group=True,
        ))
    seen = await _told(made, "list_groups", viewer, is_main)
    shown = [chat["name"] for chat in seen["chats"]] if isinstance(seen, Mapping) else []
    return {"groups": shown, "count": len(shown)}


async def _told(made: House, tool: str, viewer: str, is_main: bool) -> Any:
    """What the tool says; None = it is refused."""
    reply = await made.call(viewer, chat_of(viewer), is_main, tool, {})
    return json.loads(reply.text) if reply.ok else None
