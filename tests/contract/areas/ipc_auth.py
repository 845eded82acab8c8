"""What an agent may ask of the host. Instead of a request file there is a call over the worker's own pipe; who asks
is what the grant says. `refresh_groups` is `list_groups`: the list is made when it is asked for.

A target that is not registered is a chat that was heard of and has no group. The rows say whom an agent may address;
that the owner is asked first, where nobody who may speak ever wrote (AC-51), is ours and off here: see
turns/test_approvals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.contract.areas.clock import NOON, ms
from tests.contract.areas.house_words import chat_of, is_group_jid, jid_of
from tests.contract.house import House, house
from tests.contract.rows import Case, Checked, Phrases, Unmapped

from microclaw.core.groups import MAIN_FOLDER
from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import TaskAnswer
from microclaw.core.settings import Approvals

#: The original's names of fields that we call otherwise.
_OUR_NAMES = {
    "targetJid": "target_group_jid", "chatJid": "chat", "taskId": "task_id", "requiresTrigger": "requires_trigger",
}
#: Fields of a request that a row may name beside `target`.
_FIELDS = (
    "text", "prompt", "schedule_type", "schedule_value", "context_mode", "script", "name", "folder", "trigger",
    "requires_trigger",
)
#: A request that names no context is one that no agent wrote: its tool always names it.
_SCHEDULE = {
    "prompt": "made by the call", "schedule_type": "once", "schedule_value": "2999-01-01T00:00:00Z",
    "context_mode": "isolated",
}
_TASK_TOOLS = ("pause_task", "resume_task", "cancel_task", "update_task")


async def answer(case: Case) -> dict[str, Any]:
    case.knows(
        "groups", "request", "from_folder", "target", "fields_in_file", "missing", "update_of", *_FIELDS,
    )
    groups, caller = case.need("groups"), case.need("from_folder")
    async with house(approvals=Approvals(new_recipients=False)) as made:
        for jid, folder in groups.items():
            if folder == MAIN_FOLDER:
                made.router.registry.ensure_main(f"console:{folder}")
                _rename_main(made, chat_of(jid))
            else:
                await made.register(chat_of(jid), folder, trigger="@Andy")
        for jid in groups:
            # In every group somebody has written before.
            await _heard_of(made, jid)
        # A folder that is no group's (any more) is nobody's: its agent has a chat that is not registered.
        chat = next((chat_of(jid) for jid, folder in groups.items() if folder == caller), f"wa:{caller}")
        if "fields_in_file" in case.given and not isinstance(case.given["fields_in_file"], Mapping):
            raise Unmapped("fields_in_file")
        request = case.need("request") or ""
        if request == "refresh_groups":
            await _heard_of(made, "newly-heard@g.us")
        said = {name: case.given[name] for name in _FIELDS if name in case.given}
        said |= {_OUR_NAMES.get(name, name): value for name, value in case.given.get("fields_in_file", {}).items()}
        args = await _args(made, case, request, groups) | said
        missing = {_OUR_NAMES.get(name, name) for name in case.given.get("missing", [])}
        args = {name: value for name, value in args.items() if name not in missing}
        tool = "list_groups" if request == "refresh_groups" else request
        before = _state(made)
        known_tasks = {row.id for row in made.clock.rows()}
        reply = await made.call(caller, chat, caller == MAIN_FOLDER, tool, args)
        tasks = [row for row in made.clock.rows() if row.id not in known_tasks]
        facts: dict[str, Any] = {
            "allowed": reply.ok,
            "task_folder": tasks[0].group if tasks else None,
            "task_status": tasks[0].status if tasks else _status(made, args.get("task_id")),
            "context_mode": tasks[0].context if tasks else None,
            "schedule_type": tasks[0].schedule if tasks else None,
            "tasks_created": len(tasks), "sent": [reply.text for reply in made.replies()],
            # A call is answered; nothing of it stays behind, whatever it was.
            "file_removed": bool(reply.text),
            "snapshot_rewritten": "newly-heard@g.us" in reply.text,
        }
        if not reply.ok:
            assert _state(made) == before, "a refusal must change nothing"
        return facts | await _registered(made, case)


def _state(made: House) -> Any:
    return (
        [(group.chat, group.folder, group.is_main) for group in made.router.registry.all()],
        [(row.id, row.status, row.prompt) for row in made.clock.rows()],
        [reply.chat for reply in made.replies()],
    )


def _status(made: House, task_id: str | None) -> str | None:
    """None = there is no such task (any more)."""
    return next((row.status for row in made.clock.rows() if row.id == task_id), None)


def _rename_main(made: House, chat: str) -> None:
    """The main group is the console's at first; here it is the contract's chat."""
    from sqlalchemy import update

    from microclaw.router.tables import groups

    assert made.router.engine is not None
    with made.router.engine.begin() as db:
        db.execute(update(groups).values(chat=chat))
    made.router.start()


async def _heard_of(made: House, jid: str) -> None:
    await made.hears(MessageReceived(
        chat=chat_of(jid), platform_id="1", sender="x", sender_name="X", text="hi", sent_ms=1,
        is_group=is_group_jid(jid),
    ))


async def _args(made: House, case: Case, request: str, groups: Mapping[str, str]) -> dict[str, Any]:
    target = case.given.get("target")
    if request in _TASK_TOOLS:
        return {"task_id": _task(made, str(target))} | ({"prompt": "changed"} if request == "update_task" else {})
    if target is None and request != "register_group":
        return {"text": "hello"} if request == "send_message" else _SCHEDULE if request == "schedule_task" else {}
    if isinstance(target, str) and target not in groups and request != "register_group":
        await _heard_of(made, target)
    if request == "send_message":
        return {"chat": chat_of(str(target)), "text": "hello"}
    if request == "schedule_task":
        return _SCHEDULE | {"target_group_jid": chat_of(str(target))}
    if request == "register_group":
        jid = str(target)
        folder = groups.get(jid) or f"{jid.partition('@')[0]}-group"
        return {"jid": chat_of(jid), "name": "A group", "folder": folder, "trigger": "@Andy"}
    return {}


def _task(made: House, target: str) -> str:
    if target in ("task that does not exist", "a task that does not exist", "unknown task"):
        return "task-0000"
    found = re.fullmatch(r"(?:an? )?(?:(?P<status>active|paused) )?task of (?:group )?(?P<owner>.+)", target)
    if found is None:
        raise Unmapped(f"target: {target}")
    made.clock.now = ms(NOON)
    answer = made.clock.try_create("interval", "600000", group=found["owner"], chat=f"wa:{found['owner']}")
    assert isinstance(answer, TaskAnswer)
    if found["status"] == "paused":
        made.clock.change(answer.task.id, "pause", viewer=found["owner"])
    return answer.task.id


async def _registered(made: House, case: Case) -> dict[str, Any]:
    if case.need("request") != "register_group":
        return {}
    target = str(case.need("target"))
    found = [group for group in made.router.registry.all() if jid_of(group.chat) == target]
    if not found:
        return {}
    (group,) = found
    await made.hears(MessageReceived(
        chat=group.chat, platform_id="first", sender="x", sender_name="X", text="@Andy hi", sent_ms=1,
    ))
    logs = made.router.folder / "groups" / group.folder / "logs"
    return {
        "takes_effect": Phrases({"without restart": any(grant.chat == group.chat for _, grant in made.grants)}),
        "folder_created": Checked(str(logs) if logs.is_dir() else "", str.endswith),
        "stored_requires_trigger": group.requires_trigger, "is_main": group.is_main, "is_main_kept": group.is_main,
        "stored_name": group.name, "stored_folder": group.folder, "stored_trigger": group.trigger,
    }
