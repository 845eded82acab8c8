"""Commands that destroy things for good, from end to end: real router, egress and sandbox; agents in bubblewrap.

What is deleted here lies in a group's folder of the test's own, and is deleted inside a sandbox that sees nothing else.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.processes import ask
from tests.contract.turns.desk import Desk

from microclaw.bus.api import Bus
from microclaw.core.kinds import ScheduledTask
from microclaw.core.requests import AnswerApproval, Approvals, ApprovalsAsked, AuditAsked, AuditEntries, Done

pytestmark = pytest.mark.usefixtures("bubblewrap")
CODE = re.compile(r"approval ([0-9A-Z]{4}-[0-9A-Z]{4})")
REMOVE = "rm -rf notes"


@pytest.fixture
async def house(bubblewrap: None) -> AsyncIterator[tuple[Desk, Bus]]:
    async with Desk.opened("router") as desk:
        yield desk, await desk.made.connect("cli")


def notes(desk: Desk, group: str = "fam") -> Path:
    """A folder that the group would miss."""
    folder = desk.made.home.groups / group / "notes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_text("dear diary")
    return folder


async def bash(desk: Desk, command: str, *, group: str = "fam", is_main: bool = False, as_task: bool = False) -> str:
    line = f"#!bash {command}"
    task = ScheduledTask(task_id="t", prompt=line, due_ms=time.time_ns() // 1_000_000, context="group")
    run = await desk.grant(line, group=group, is_main=is_main, task=task if as_task else None)
    assert (await desk.end(run)).ok
    return await desk.answer(run)


async def test_ac53_exactly_what_is_shown_runs_after_a_yes_and_once_is_once(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    folder = notes(desk)
    refused = await bash(desk, REMOVE)
    code = CODE.findall(refused)[0]
    assert "it deletes notes with all that is in it" in refused and folder.exists()
    question = await desk.noticed(code)
    assert "Group fam wants to run this in its sandbox" in question and "\n> rm -rf notes\n" in question
    await desk.hear(f"/approve {code} once")
    await desk.noticed("allowed, once")
    # One blank more is another command, though the reason is the same.
    other = CODE.findall(await bash(desk, REMOVE.replace(" ", "  ", 1)))
    assert other and other != [code] and folder.exists()
    assert not CODE.findall(await bash(desk, REMOVE)) and not folder.exists()
    assert CODE.findall(await bash(desk, REMOVE)), "once is once"
    entries = (await ask(cli, "egress", AuditAsked(tail=True, limit=100), AuditEntries)).entries
    assert {"approval.ask", "approval.answer", "approval.use", "tool.allow_command"} <= {e.action for e in entries}
    assert "notes" not in str([e for e in entries if e.action.startswith("approval.")]), "by its hash, not its text"


async def test_ac53_always_holds_for_exactly_that_command(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    folder = notes(desk)
    code = CODE.findall(await bash(desk, REMOVE))[0]
    await ask(cli, "egress", AnswerApproval(code=code, answer="always"), Done)
    for _ in range(2):
        notes(desk)
        assert not CODE.findall(await bash(desk, REMOVE)) and not folder.exists()
    notes(desk)
    assert CODE.findall(await bash(desk, f"{REMOVE} other")) and folder.exists()
    await ask(cli, "egress", AnswerApproval(code=code, answer="revoke"), Done)
    assert CODE.findall(await bash(desk, REMOVE)) and folder.exists()


@pytest.mark.parametrize("as_task", [False, True], ids=["chat", "schedule"])
@pytest.mark.parametrize("is_main", [False, True], ids=["group", "main"])
async def test_ac54_every_run_meets_the_gate_for_commands(
    house: tuple[Desk, Bus], is_main: bool, as_task: bool
) -> None:
    desk, cli = house
    group = "main" if is_main else "fam"
    folder = notes(desk, group)
    code = CODE.findall(await bash(desk, REMOVE, group=group, is_main=is_main, as_task=as_task))[0]
    await ask(cli, "egress", AnswerApproval(code=code, answer="deny"), Done)
    again = await bash(desk, REMOVE, group=group, is_main=is_main, as_task=not as_task)
    assert "said no" in again and folder.exists()


async def test_what_destroys_nothing_is_never_asked_about(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    said = await bash(desk, "mkdir -p /tmp/x && rm -rf /tmp/x && echo gone; echo a > b && rm b && ls")
    assert "gone" in said and not CODE.findall(said)
    assert (await ask(cli, "egress", ApprovalsAsked(all=True), Approvals)).rows == ()


async def test_a_command_that_can_not_be_read_is_asked_about(house: tuple[Desk, Bus]) -> None:
    desk, _ = house
    refused = await bash(desk, "echo 'no end")
    assert "can't be read" in refused and CODE.findall(refused)


@pytest.mark.parametrize("policy", ["deny", "allow"])
async def test_the_owner_can_switch_asking_off_either_way(bubblewrap: None, policy: str) -> None:
    async with Desk.opened("router", sandbox=f'[approvals]\ndestructive = "{policy}"') as desk:
        folder = notes(desk)
        said = await bash(desk, REMOVE)
        assert not CODE.findall(said)
        assert folder.exists() is (policy == "deny") and ("lets no such command run" in said) is (policy == "deny")
        cli = await desk.made.connect("cli")
        assert (await ask(cli, "egress", ApprovalsAsked(all=True), Approvals)).rows == ()
