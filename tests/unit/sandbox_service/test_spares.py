"""A hot group whose worker has ended gets the next one ahead, in room that nobody wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.sandbox_service.plain import PRELUDE
from tests.unit.sandbox_service.test_pool import FAM, turn, until

from microclaw.core.container import Container
from microclaw.core.mounts import Wanted
from microclaw.sandbox.extra_mounts import allow_list_path
from microclaw.sandbox.pool import Tenant

Make = Callable[..., Any]
HOT_S = 600
#: A worker that takes as long to start as a test likes: until its group's folder has a file `go`.
SLOW = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n" + PRELUDE + """
while True:
    turn = hear()
    say(type="turn_done", run_id=turn["run_id"], ok=True, text=turn["prompt"])
"""


def tenant(group: str) -> Tenant:
    return Tenant(group, f"console:{group}", is_main=False)


async def crash(made: Any) -> None:
    """The worker that was started last dies while it is idle."""
    process = made.backend.sandboxes[-1].process
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: process.returncode is not None)


async def spare(made: Any, started: int) -> None:
    await until(lambda: len(made.backend.started) == started and made.pool.facts["workers_spare"] == 1)


async def test_after_a_crash_a_spare_is_ready_and_takes_the_next_turn(rig: Make) -> None:
    made = rig(spare_s=HOT_S)
    await turn(made)
    await crash(made)
    await spare(made, 2)
    assert await turn(made, "next") == "next"
    assert len(made.backend.started) == 2 and made.pool.facts["workers_spare"] == 0


async def test_after_the_idle_time_and_after_new_too(rig: Make) -> None:
    made = rig(spare_s=HOT_S, idle_timeout_s=1)
    await turn(made)
    await spare(made, 2)
    await turn(made)
    aside = made.home.sessions / "fam.aside"

    async def set_aside() -> None:
        (made.home.sessions / "fam").rename(aside)

    await made.pool.begin_anew("fam", set_aside)
    await spare(made, 3)
    assert await turn(made, "next") == "next"
    sources = [mount.source for mount in made.backend.started[-1].mounts]
    assert made.home.sessions / "fam" in sources and aside not in sources


async def test_a_spare_that_dies_or_waits_in_vain_is_not_started_again(rig: Make) -> None:
    """It is owed to a use of the group; otherwise a broken program would be started for ever."""
    made = rig(spare_s=2)
    await turn(made)
    await crash(made)
    await spare(made, 2)
    await crash(made)
    await until(lambda: made.pool.facts["workers"] == 0)
    assert await turn(made) == "hi"
    await crash(made)
    await spare(made, 4)
    await until(lambda: made.pool.facts["workers"] == 0)
    assert len(made.backend.started) == 4 and not made.doors.open_now


async def test_a_spare_that_can_not_be_started_changes_nothing(rig: Make, caplog: Any) -> None:
    made = rig(spare_s=HOT_S)
    await turn(made)
    good, made.backend.program = made.backend.program, "import sys; sys.exit(3)"
    await crash(made)
    await until(lambda: "no spare worker could be started" in caplog.text)
    await until(lambda: made.pool.facts["workers"] == 0)
    made.backend.program = good
    assert await turn(made) == "hi"
    assert len(made.doors.open_now) == 1


async def test_no_spares_when_switched_off_or_when_the_pool_ends_them_itself(rig: Make) -> None:
    made = rig(spare_s=0)
    await turn(made)
    await crash(made)
    await until(lambda: made.pool.facts["workers"] == 0)
    other = rig(spare_s=HOT_S)
    await turn(other)
    await other.pool.end_idle()
    await asyncio.sleep(0.1)
    assert len(made.backend.started) == len(other.backend.started) == 1


async def test_a_spare_of_a_group_whose_settings_changed_is_thrown_away(rig: Make, tmp_path: Path) -> None:
    made = rig(spare_s=HOT_S)
    (tmp_path / "photos").mkdir()
    allow_list_path(made.home).write_text(json.dumps({
        "allowedRoots": [{"path": str(tmp_path), "allowReadWrite": True}], "blockedPatterns": [],
        "nonMainReadOnly": False,
    }))
    await turn(made)
    await crash(made)
    await spare(made, 2)
    made.container = Container(mounts=(Wanted(host_path=str(tmp_path / "photos"), container_path="photos"),))
    await turn(made)
    assert "/workspace/extra/photos" in [mount.target for mount in made.backend.started[2].mounts]
    # What is taken back is taken back at once, also from a worker that is at work.
    allow_list_path(made.home).write_text(json.dumps({
        "allowedRoots": [], "blockedPatterns": [], "nonMainReadOnly": False
    }))
    await turn(made)
    assert "/workspace/extra/photos" not in [mount.target for mount in made.backend.started[3].mounts]
    assert made.pool.facts["workers"] == 1


async def test_a_worker_is_for_one_tenant_alone(rig: Make) -> None:
    made = rig(spare_s=HOT_S)
    await turn(made)
    await crash(made)
    await spare(made, 2)
    await turn(made, tenant=Tenant("fam", "console:other", is_main=False))
    await turn(made, tenant=Tenant("fam", "console:other", is_main=True))
    assert len(made.backend.started) == 4 and made.pool.facts["workers"] == 1


async def test_a_spare_gives_way_before_a_worker_that_was_used(rig: Make) -> None:
    made = rig(spare_s=HOT_S, max_workers=2)
    await turn(made, tenant=tenant("a"))
    await turn(made, tenant=tenant("b"))
    await crash(made)
    await spare(made, 3)
    await turn(made, tenant=tenant("c"))
    assert made.pool.live == {"a", "c"}, "a has been idle for longer, but b's is a spare"
    assert made.pool.facts["workers"] == 2


async def test_no_spare_takes_room_that_somebody_waits_for(rig: Make) -> None:
    made = rig(spare_s=HOT_S, max_workers=1)
    async with made.pool.lease(tenant("a")) as worker:
        waiting = asyncio.create_task(turn(made, "b", tenant("b")))
        await asyncio.sleep(0)
        await worker.kill()
    assert await waiting == "b"
    assert made.pool.live == {"b"} and len(made.backend.started) == 2


async def test_a_spare_that_is_still_starting_gives_way_too(rig: Make) -> None:
    made = rig(SLOW, spare_s=HOT_S, max_workers=1)
    for group in ("a", "b"):
        (made.home.groups / group).mkdir(parents=True)
        (made.home.groups / group / "go").touch()
    await turn(made, tenant=tenant("a"))
    (made.home.groups / "a" / "go").unlink()
    await crash(made)
    await until(lambda: len(made.backend.sandboxes) == 2)
    assert await turn(made, "b", tenant("b")) == "b"
    assert made.pool.live == {"b"} and made.pool.facts["workers"] == 1
    assert made.backend.sandboxes[1].process.returncode is not None


async def test_close_leaves_no_door_of_a_spare_that_is_ready(rig: Make) -> None:
    made = rig(spare_s=HOT_S)
    await turn(made, tenant=FAM)
    await crash(made)
    await until(lambda: made.pool.facts["workers_spare"] == 1)
    assert made.doors.open_now
    await made.pool.close()
    assert not made.doors.open_now and made.pool.facts["workers"] == 0


async def test_close_leaves_no_spare_whether_it_waits_or_is_being_started(rig: Make) -> None:
    for program in (None, SLOW):
        made = rig(*([program] if program else []), spare_s=HOT_S)
        (made.home.groups / "fam").mkdir(parents=True, exist_ok=True)
        go = made.home.groups / "fam" / "go"
        go.touch()
        await turn(made, tenant=FAM)
        go.unlink()
        await crash(made)
        await until(lambda made=made: len(made.backend.sandboxes) == 2)  # type: ignore[misc]
        await made.pool.close()
        assert all(sandbox.process.returncode is not None for sandbox in made.backend.sandboxes)
        assert not made.doors.open_now and made.pool.facts["workers"] in (0, 1)
