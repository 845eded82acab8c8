"""What agents ask of the host, with the real router and scheduler: allowed by who asks, done once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping

import pytest
from tests.contract.processes import ask, until
from tests.contract.turns.desk import Desk

from microclaw.bus.api import Bus
from microclaw.core.requests import (
    AuditAsked,
    AuditEntries,
    GroupAnswer,
    Groups,
    GroupsAsked,
    RegisterGroup,
    Tasks,
    TasksAsked,
)

pytestmark = pytest.mark.usefixtures("bubblewrap")


@pytest.fixture
async def house(bubblewrap: None) -> AsyncIterator[tuple[Desk, Bus]]:
    """Main and `fam` are registered; somebody wrote in `fam`."""
    async with Desk.opened("router", "scheduler") as desk:
        cli = await desk.made.connect("cli")
        await ask(cli, "router", RegisterGroup(
            command_id="r1", chat="console:fam", folder="fam", name="Family", trigger="@Andy",
        ), GroupAnswer)
        await desk.hear("hello", chat="console:fam")

        async def known() -> bool:
            chats = (await ask(cli, "router", GroupsAsked(), Groups)).chats
            return any(row.chat == "console:fam" and row.is_heard for row in chats)

        await until(known)
        yield desk, cli


async def say(desk: Desk, tool: str, args: Mapping[str, object], *, main: bool = False) -> str:
    """What the model is told."""
    group = "main" if main else "fam"
    run = await desk.grant(f"#!tool {tool} {json.dumps(args)}", group=group, is_main=main)
    assert (await desk.end(run)).ok
    return await desk.answer(run)


async def tasks(cli: Bus) -> list[str]:
    return [task.group for task in (await ask(cli, "scheduler", TasksAsked(), Tasks)).tasks]


async def test_a_task_is_scheduled_listed_changed_and_cancelled(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    said = await say(desk, "schedule_task", {
        "prompt": "stretch", "schedule_type": "interval", "schedule_value": "3600000",
    })
    (row,) = (await ask(cli, "scheduler", TasksAsked(), Tasks)).tasks
    assert (row.group, row.chat, row.prompt, row.context) == ("fam", "console:fam", "stretch", "group")
    assert row.id in said
    assert json.loads(await say(desk, "list_tasks", {}))[0]["id"] == row.id
    assert "paused" in await say(desk, "pause_task", {"task_id": row.id})
    assert "active" in await say(desk, "resume_task", {"task_id": row.id})
    assert "60000" in await say(desk, "update_task", {"task_id": row.id, "schedule_value": "60000"})
    assert "cancelled" in await say(desk, "cancel_task", {"task_id": row.id})
    assert await tasks(cli) == []
    assert (await say(desk, "cancel_task", {"task_id": row.id})).startswith("error:")


async def test_a_group_may_not_reach_beyond_itself(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    once: dict[str, object] = {"prompt": "p", "schedule_type": "once", "schedule_value": "2099-01-01T00:00:00"}
    assert "scheduled" in await say(desk, "schedule_task", once, main=True)
    (mine,) = (await ask(cli, "scheduler", TasksAsked(), Tasks)).tasks
    refused: dict[str, dict[str, object]] = {
        "send_message": {"text": "x", "chat": "console:main", "isMain": True, "groupFolder": "main"},
        "schedule_task": {
            "prompt": "p", "schedule_type": "interval", "schedule_value": "60000", "target_group_jid": "console:main",
        },
        "pause_task": {"task_id": mine.id},
        "cancel_task": {"task_id": mine.id},
        "update_task": {"task_id": mine.id, "prompt": "stolen"},
        "register_group": {"jid": "console:new", "name": "n", "folder": "new", "trigger": ""},
        "list_groups": {},
    }
    for tool, args in refused.items():
        assert (await say(desk, tool, args)).startswith("error:"), tool
    assert json.loads(await say(desk, "list_tasks", {})) == []
    (after,) = (await ask(cli, "scheduler", TasksAsked(), Tasks)).tasks
    assert after == mine
    assert [reply.chat for reply in desk.replies if reply.origin == "message"] == []
    assert [group.folder for group in (await ask(cli, "router", GroupsAsked(), Groups)).groups] == ["main", "fam"]


async def test_main_reaches_other_groups_and_registers_new_ones(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    assert "sent" in await say(desk, "send_message", {"text": "dinner!", "chat": "console:fam"}, main=True)
    assert [reply.text for reply in desk.replies if reply.chat == "console:fam"] == ["dinner!"]
    assert "no chat" in await say(desk, "send_message", {"text": "x", "chat": "console:nobody"}, main=True)
    task: dict[str, object] = {"prompt": "p", "schedule_type": "interval", "schedule_value": "60000"}
    assert "scheduled" in await say(desk, "schedule_task", task | {"target_group_jid": "console:fam"}, main=True)
    assert "not a registered" in await say(desk, "schedule_task", task | {"target_group_jid": "console:x"}, main=True)
    assert await tasks(cli) == ["fam"]
    register: dict[str, object] = {
        "jid": "console:new", "name": "New", "folder": "new", "trigger": "", "requires_trigger": False, "isMain": True,
    }
    assert "registered" in await say(desk, "register_group", register, main=True)
    assert "folder" in await say(desk, "register_group", {"jid": "console:p", "name": "P"}, main=True)
    escaped = register | {"jid": "console:esc", "folder": "../escaped"}
    assert "can't be a folder" in await say(desk, "register_group", escaped, main=True)
    known = json.loads(await say(desk, "list_groups", {}, main=True))
    assert [(group["folder"], group["is_main"]) for group in known["groups"]] == [
        ("main", True), ("fam", False), ("new", False),
    ]
    assert not any(chat["is_group"] for chat in known["direct_chats"])
    assert "console:fam" in {chat["chat"] for chat in [*known["chats"], *known["direct_chats"]]}


async def test_a_group_searches_its_own_chat_and_main_every_one(house: tuple[Desk, Bus]) -> None:
    desk, _ = house
    mine = json.loads(await say(desk, "search_messages", {"query": "hell"}))
    assert [(row["chat"], row["sender"], row["text"]) for row in mine["messages"]] == [
        ("console:fam", "Owner", "hello"),
    ]
    assert mine["searched"].startswith("1 messages up to ")
    assert (await say(desk, "search_messages", {"query": "hello", "chat": "console:main"})).startswith("error:")
    every = json.loads(await say(desk, "search_messages", {"query": "hello", "chat": "console:fam"}, main=True))
    assert len(every["messages"]) == 1
    assert "no word" in await say(desk, "search_messages", {"query": '"*"'})


async def test_wrong_arguments_are_told_to_the_model(house: tuple[Desk, Bus]) -> None:
    desk, _ = house
    assert "schedule_type" in await say(
        desk, "schedule_task", {"prompt": "p", "schedule_type": "sometimes", "schedule_value": "x"}
    )
    bad_cron = {"prompt": "p", "schedule_type": "cron", "schedule_value": "61 * * * *"}
    assert (await say(desk, "schedule_task", bad_cron)).startswith("error:")
    assert "nothing to send" in await say(desk, "send_message", {"text": "<internal>hush</internal>"})


async def test_a_scheduler_that_comes_late_gets_the_call_once(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    desk.made.kill("scheduler")
    args = json.dumps({"prompt": "p", "schedule_type": "interval", "schedule_value": "3600000"})
    run = await desk.grant(f"#!tool schedule_task {args}\n#!crash\n#!say done")
    desk.made.start("scheduler")
    assert (await desk.end(run)).ok
    assert await tasks(cli) == ["fam"]


async def test_the_audit_log_knows_who_was_refused_what(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    await say(desk, "list_groups", {})

    async def told() -> bool:
        entries = (await ask(cli, "egress", AuditAsked(tail=True), AuditEntries)).entries
        return any(
            entry.action == "tool.list_groups" and entry.outcome == "deny" and entry.actor.endswith("@fam")
            for entry in entries
        )

    await until(told)
