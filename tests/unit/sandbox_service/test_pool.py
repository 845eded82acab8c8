"""One worker a group, lent to one user at a time, ended when idle or in the way."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sandbox_service.plain import PRELUDE

from microclaw.core.turns import Loss, Watch
from microclaw.core.worker import ToolCall, ToolReply, Turn
from microclaw.sandbox import pool as pool_module
from microclaw.sandbox import worker as worker_module
from microclaw.sandbox.backend import Ended, EngineMissing, SandboxError, SpecRefused
from microclaw.sandbox.pool import Tenant, worker_id_for
from microclaw.sandbox.worker import WorkerLost

Make = Callable[..., Any]
FAM = Tenant("fam", "console:fam", is_main=False)
DEADLINE_S = 30.0


async def no_calls(call: ToolCall) -> ToolReply:
    raise AssertionError(call)


async def turn(rig: Any, text: str = "hi", tenant: Tenant = FAM, on_call: Any = no_calls) -> str:
    async with asyncio.timeout(DEADLINE_S), rig.pool.lease(tenant) as worker:
        done = await worker.turn(
            Turn(run_id=f"r-{text[:20]}", prompt=text, now_ms=0), on_call, Watch(time.monotonic(), 60)
        )
        return str(done.text)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_turns_of_a_group_share_one_worker(rig: Make) -> None:
    made = rig()
    assert [await turn(made, text) for text in ("a", "b", "c")] == ["a", "b", "c"]
    assert len(made.backend.started) == 1
    assert {mount.target: mount.writable for mount in made.backend.started[0].mounts} == {
        "/workspace/group": True, "/workspace/session": True,
    }


async def test_two_turns_of_a_group_wait_for_each_other_and_two_groups_do_not(rig: Make) -> None:
    made = rig(PRELUDE + """
while True:
    turn = hear()
    open("at work", "x").close()
    while not os.path.exists("go " + turn["prompt"]): time.sleep(0.01)
    os.remove("at work")
    say(type="turn_done", run_id=turn["run_id"], ok=True, text=turn["prompt"])
""")
    other = Tenant("other", "console:other", is_main=False)
    tasks = [asyncio.create_task(turn(made, text)) for text in ("a", "b")]
    tasks.append(asyncio.create_task(turn(made, "c", other)))
    await until(lambda: all((made.home.groups / group / "at work").exists() for group in ("fam", "other")))
    for name in ("fam/go a", "fam/go b", "other/go c"):
        (made.home.groups / name).touch()
    assert await asyncio.gather(*tasks) == ["a", "b", "c"], "`x` would have failed had they overlapped"


async def test_the_longest_idle_worker_gives_way(rig: Make) -> None:
    made = rig(max_workers=2)
    for group in ("a", "b", "c"):
        await turn(made, tenant=Tenant(group, f"console:{group}", is_main=False))
    await turn(made, tenant=Tenant("b", "console:b", is_main=False))
    assert [spec.worker_id[0] for spec in made.backend.started] == ["a", "b", "c"], "b was still there"
    assert len(made.doors.open_now) == 2


async def test_with_all_workers_busy_a_group_waits_for_the_first_to_be_free(rig: Make) -> None:
    made = rig(max_workers=1)
    async with made.pool.lease(FAM):
        waiting = asyncio.create_task(turn(made, "b", Tenant("b", "console:b", is_main=False)))
        await asyncio.sleep(0)
        assert len(made.backend.started) == 1
    assert await waiting == "b"


async def test_no_worker_in_time_is_said(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LEASE_WAIT_S_MAX", 0.05)
    made = rig(max_workers=1)
    with pytest.raises(SandboxError, match="no worker could be had"):
        async with made.pool.lease(FAM):
            await turn(made, "b", Tenant("b", "console:b", is_main=False))


async def test_an_idle_worker_is_ended_after_its_time(rig: Make) -> None:
    made = rig(idle_timeout_s=1)
    await turn(made)
    await until(lambda: made.backend.sandboxes[0].process.returncode is not None)
    await until(lambda: not made.doors.open_now)
    assert await turn(made) == "hi"


async def test_a_worker_that_died_idle_is_replaced(rig: Make) -> None:
    made = rig()
    await turn(made)
    os.kill(made.backend.sandboxes[0].process.pid, signal.SIGKILL)
    await until(lambda: made.pool.facts["workers"] == 0)
    assert not made.doors.open_now
    assert await turn(made) == "hi"


async def test_a_worker_whose_engine_is_gone_is_replaced_though_nobody_can_tell_how_it_ended(rig: Make) -> None:
    made = rig()
    await turn(made)
    sandbox = made.backend.sandboxes[0]

    async def gone() -> Ended:
        raise EngineMissing("the engine does not answer any more")

    sandbox.wait = sandbox.kill = gone
    os.kill(sandbox.process.pid, signal.SIGKILL)
    await until(lambda: made.pool.facts["workers"] == 0)
    del sandbox.wait, sandbox.kill
    assert not made.doors.open_now
    assert await turn(made) == "hi"


async def test_a_worker_that_dies_in_a_turn_is_lost_and_cleared_away(rig: Make) -> None:
    made = rig(PRELUDE + "hear(); sys.exit(3)")
    with pytest.raises(WorkerLost, match="exit code 3"):
        await turn(made)
    assert made.pool.facts["workers"] == 0 and not made.doors.open_now


async def test_a_program_that_never_gets_ready_is_lost(rig: Make) -> None:
    made = rig("import sys; sys.exit('no such module')")
    with pytest.raises(WorkerLost, match="exit code 1"):
        await turn(made)
    assert made.pool.facts["workers"] == 0 and not made.doors.open_now


async def test_a_stray_line_does_no_harm_and_many_end_the_worker(rig: Make) -> None:
    stray = PRELUDE + """
while True:
    turn = hear()
    for _ in range(int(turn["prompt"])): print("{bad json", flush=True)
    say(type="turn_done", run_id=turn["run_id"], ok=True, text="well")
"""
    assert await turn(rig(stray), "1") == "well"
    with pytest.raises(WorkerLost) as lost:
        await turn(rig(stray + "\n"), str(worker_module.GARBLED_LINES_MAX))
    assert lost.value.lost.how is Loss.GARBLED


async def test_a_line_that_is_too_long_ends_the_worker(rig: Make) -> None:
    made = rig(PRELUDE + "hear()\nprint('x' * (3 << 20), flush=True)\ntime.sleep(60)")
    with pytest.raises(WorkerLost) as lost:
        await turn(made)
    assert lost.value.lost.how is Loss.TOO_LOUD


async def test_another_runs_lines_are_not_this_ones(rig: Make) -> None:
    made = rig(PRELUDE + """
while True:
    turn = hear()
    say(type="turn_done", run_id="another", ok=True, text="forged")
    say(type="turn_done", run_id=turn["run_id"], ok=True, text="mine")
""")
    assert await turn(made) == "mine"


async def test_pain07_a_silent_worker_is_ended(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microclaw.core.turns.SILENCE_S_MAX", 0.3)
    made = rig(PRELUDE + "hear(); time.sleep(600)")
    with pytest.raises(WorkerLost) as lost:
        await turn(made)
    assert lost.value.lost.how is Loss.SILENT
    assert made.backend.sandboxes[0].process.returncode is not None


async def test_a_lively_worker_past_its_time_is_ended(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microclaw.core.turns.GRACE_S", -59.5)
    made = rig(PRELUDE + """
turn = hear()
while True:
    say(type="alive", run_id=turn["run_id"]); time.sleep(0.05)
""")
    with pytest.raises(WorkerLost) as lost:
        await turn(made)
    assert lost.value.lost.how is Loss.OVERDUE


async def test_calls_are_answered_and_a_flood_of_them_is_ended(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "CALLS_MAX", 5)
    program = PRELUDE + """
while True:
    turn = hear()
    answers = []
    for number in range(int(turn["prompt"])):
        say(type="tool_call", run_id=turn["run_id"], call_id=str(number), name="list_tasks", args={})
        answers.append(hear()["ok"])
    say(type="turn_done", run_id=turn["run_id"], ok=True, text=str(answers.count(True)))
"""

    async def answer(call: ToolCall) -> ToolReply:
        return ToolReply(run_id=call.run_id, call_id=call.call_id, ok=True, text="done")

    made = rig(program)
    assert await turn(made, "3", on_call=answer) == "3"
    assert await turn(made, "8", on_call=answer) == "5"
    with pytest.raises(WorkerLost) as lost:
        await turn(made, "20", on_call=answer)
    assert lost.value.lost.how is Loss.GARBLED


async def test_a_worker_that_said_very_much_is_replaced_when_idle(
    rig: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "SPOKEN_BYTES_MAX", 1000)
    made = rig()
    await turn(made, "x" * 2000)
    await turn(made, "y")
    assert len(made.backend.started) == 2


async def test_close_kills_turns_under_way_and_starts_nothing_more(rig: Make) -> None:
    made = rig(PRELUDE + "hear(); time.sleep(600)")
    running = asyncio.create_task(turn(made))
    await until(lambda: bool(made.backend.sandboxes))
    await asyncio.sleep(0.1)
    await made.pool.close()
    with pytest.raises((WorkerLost, SandboxError)):
        await running
    with pytest.raises(SandboxError, match="stopping"):
        await turn(made)


@pytest.mark.parametrize("group", ["../x", "", "global", "a/b", "-x", "x" * 65])
async def test_what_is_no_groups_folder_is_never_mounted(rig: Make, group: str) -> None:
    made = rig()
    with pytest.raises(SpecRefused):
        await turn(made, tenant=Tenant(group, "console:x", is_main=False))
    assert not made.backend.started


@given(st.text(max_size=80), st.binary(min_size=4, max_size=4))
def test_a_workers_name_is_always_one(group: str, randomness: bytes) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", worker_id_for(group, randomness))
