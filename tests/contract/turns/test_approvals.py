"""The owner's yes from end to end: real router, egress and sandbox; agents in bubblewrap."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator

import pytest
from tests.contract.processes import ask
from tests.contract.turns.desk import Desk

from microclaw.bus.api import Bus
from microclaw.core.kinds import ScheduledTask
from microclaw.core.requests import (
    AnswerApproval,
    Approvals,
    ApprovalsAsked,
    AuditAsked,
    AuditEntries,
    ChangeEgressRule,
    Done,
    Failed,
    GroupAnswer,
    RegisterGroup,
    RemoveSecret,
    SetBudget,
    SetSecret,
    Tasks,
    TasksAsked,
)

pytestmark = pytest.mark.usefixtures("bubblewrap")
CODE = re.compile(r"approval ([0-9A-Z]{4}-[0-9A-Z]{4})")


@pytest.fixture
async def house(bubblewrap: None) -> AsyncIterator[tuple[Desk, Bus]]:
    """`new` is registered, but nobody ever wrote there."""
    async with Desk.opened("router", "scheduler") as desk:
        cli = await desk.made.connect("cli")
        await ask(cli, "router", RegisterGroup(
            command_id="r1", chat="console:new", folder="new", name="New", requires_trigger=False,
        ), GroupAnswer)
        yield desk, cli


async def tool(desk: Desk, name: str, args: dict[str, object], *, as_task: bool = False) -> str:
    """What main's agent is told, asked in a chat or by a scheduled task."""
    line = f"#!tool {name} {json.dumps(args)}"
    task = ScheduledTask(task_id="t", prompt=line, due_ms=time.time_ns() // 1_000_000, context="group")
    run = await desk.grant(line, group="main", is_main=True, task=task if as_task else None)
    assert (await desk.end(run)).ok
    return await desk.answer(run)


def sent(desk: Desk) -> list[str]:
    return [reply.text for reply in desk.replies if reply.chat == "console:new"]


async def states(cli: Bus) -> list[str]:
    return [row.state for row in (await ask(cli, "egress", ApprovalsAsked(all=True), Approvals)).rows]


async def test_ac51_first_message_to_a_new_recipient_waits_for_the_owners_yes_in_the_main_chat(
    house: tuple[Desk, Bus],
) -> None:
    desk, cli = house
    args: dict[str, object] = {"text": "see you at 8", "chat": "console:new"}
    refused = await tool(desk, "send_message", args)
    code = CODE.findall(refused)[0]
    question = await desk.noticed(code)
    assert "Group main wants to write to console:new" in question and "> see you at 8" in question
    assert sent(desk) == []
    await desk.hear(f"/approve {code} once")
    await desk.noticed("allowed, once")
    assert "sent" in await tool(desk, "send_message", args)
    assert sent(desk) == ["see you at 8"]
    assert CODE.findall(await tool(desk, "send_message", args)), "once is once"
    entries = (await ask(cli, "egress", AuditAsked(tail=True, limit=100), AuditEntries)).entries
    approvals = [entry for entry in entries if entry.action.startswith("approval.")]
    assert [entry.action for entry in approvals[:3]] == ["approval.ask", "approval.answer", "approval.use"]
    assert approvals[1].actor.startswith("owner in console:main")
    assert "see you" not in str(entries), "the log knows the action by its hash, not its text"


async def test_ac52_a_yes_of_anybody_else_or_anywhere_else_is_plain_text(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    code = CODE.findall(await tool(desk, "send_message", {"text": "x", "chat": "console:new"}))[0]
    yes = f"/approve {code} always"
    await desk.hear(yes, chat="console:new")
    await desk.hear(yes, is_edit=True)
    await desk.hear(yes, is_forwarded=True)
    await desk.hear(yes, is_own_reply=True)
    await desk.hear(yes, is_group=True, sender="guest")
    await desk.hear(f"he said {yes}")
    # What comes after them in the same chat shows that they were all read.
    await desk.hear("/deny 2222-2222")
    await desk.noticed("no such code")
    assert await states(cli) == ["pending"] and sent(desk) == []


@pytest.mark.parametrize("as_task", [False, True], ids=["chat", "schedule"])
@pytest.mark.parametrize("name", ["send_message", "schedule_task"])
async def test_ac54_every_way_a_run_comes_about_meets_the_same_gate(
    house: tuple[Desk, Bus], name: str, as_task: bool
) -> None:
    desk, cli = house
    args: dict[str, object] = {"text": "x", "chat": "console:new"} if name == "send_message" else {
        "prompt": "greet them", "schedule_type": "interval", "schedule_value": "3600000",
        "target_group_jid": "console:new",
    }
    code = CODE.findall(await tool(desk, name, args, as_task=as_task))[0]
    assert sent(desk) == [] and (await ask(cli, "scheduler", TasksAsked(), Tasks)).tasks == ()
    assert isinstance(await ask(cli, "egress", AnswerApproval(code=code, answer="deny"), Done | Failed), Done)
    assert "said no" in await tool(desk, name, args, as_task=not as_task)


async def test_ac46_nothing_but_the_owner_changes_policy_approvals_budgets_or_secrets(
    house: tuple[Desk, Bus],
) -> None:
    desk, cli = house
    code = CODE.findall(await tool(desk, "send_message", {"text": "x", "chat": "console:new"}))[0]
    # All that an agent can reach are the host tools: none of these is one.
    for name in ("approve", "answer_approval", "egress_allow", "set_budget", "set_secret", "audit", "config"):
        assert "there is no tool" in await tool(desk, name, {"code": code})
    # Were the whole sandbox service an agent's, it still could not: egress asks who it is, and the broker knows.
    desk.made.kill("sandbox")
    sandbox = await desk.made.connect("sandbox")
    for question in (
        AnswerApproval(code=code, answer="always"), SetBudget(tokens_per_day=0), ChangeEgressRule(
            host="evil.example", verdict="allow"
        ), SetSecret(name="llm", value="a-value-of-no-worth"), RemoveSecret(name="llm"),
    ):
        refused = await sandbox.request("egress", question, Done | Failed)
        assert isinstance(refused, Failed) and refused.code == "denied", question
    assert await states(cli) == ["pending"]


