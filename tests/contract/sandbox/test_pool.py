"""Workers and spares of a pool on the real backends, with the real agent in them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.sandbox.test_limits import processes_with
from tests.unit.sandbox_service.plain import OpenDoors

from microclaw.core.container import Container
from microclaw.core.home import home_from
from microclaw.core.mounts import Wanted
from microclaw.core.settings import Sandbox, Settings
from microclaw.core.turns import Watch
from microclaw.core.worker import ToolCall, ToolReply, Turn
from microclaw.sandbox.bubblewrap import Bubblewrap
from microclaw.sandbox.extra_mounts import allow_list_path
from microclaw.sandbox.pool import Pool, Tenant

WAIT_S = 60
FAM = Tenant("fam", "console:fam", is_main=False)


class House:
    """A pool over a real backend; its agents do what they are told line by line."""

    def __init__(self, backend: Any, folder: Path, **sandbox: int) -> None:
        self.home = home_from({"MICROCLAW_HOME": str(folder)})
        self.home.create()
        self.backend = backend
        self.installation = f"spares-{os.getpid()}-{time.monotonic_ns()}"
        self.doors = OpenDoors(self.home.run, "scripted")
        self.container = Container()
        self._turns = 0

        async def ready() -> Any:
            return backend

        async def own(_group: str) -> Container:
            return self.container

        self.pool = Pool(
            ready, self.doors, self.home, Settings(sandbox=Sandbox(spare_s=600, memory_mb=128, **sandbox)),  # type: ignore[arg-type]
            installation=self.installation, own=own,
        )

    async def turn(self, command: str, tenant: Tenant = FAM) -> str:
        async with asyncio.timeout(WAIT_S), self.pool.lease(tenant) as worker:
            self._turns += 1
            turn = Turn(run_id=f"r{self._turns}", prompt=f"#!bash {command}", now_ms=1)
            return (await worker.turn(turn, _no_tools, Watch(time.monotonic(), WAIT_S))).text.strip()

    async def lose(self) -> None:
        """The group's worker is ended in the middle of its life, and a spare is there."""
        async with self.pool.lease(FAM) as worker:
            await worker.kill()
        await self.until(workers=1, workers_spare=1)

    async def until(self, **facts: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while not facts.items() <= self.pool.facts.items():
                await asyncio.sleep(0.02)


async def _no_tools(call: ToolCall) -> ToolReply:
    return ToolReply(run_id=call.run_id, call_id=call.call_id, ok=False, text="none here")


@pytest.fixture
async def house(backend: Any, tmp_path: Path) -> AsyncIterator[House]:
    made = House(backend, tmp_path / "h", max_workers=2)
    yield made
    await made.pool.close()
    assert await backend.reap(made.installation) == 0, "the pool left something"


async def test_a_spare_takes_the_next_turn_with_the_same_walls(house: House) -> None:
    assert "one" in await house.turn("echo one > note; cat note")
    await house.lose()
    began = house.pool.facts["workers_started"]
    seen = await house.turn("cat note; id -u; grep -E 'CapEff|Seccomp:' /proc/self/status; touch /usr/x 2>&1")
    assert house.pool.facts["workers_started"] == began == 2, "it was there already"
    assert "one" in seen and "CapEff:\t0000000000000000" in seen and "Seccomp:\t2" in seen
    assert "Read-only" in seen and "\n0\n" not in seen


async def test_a_spare_after_new_writes_to_the_new_session(house: House) -> None:
    await house.turn("true")
    aside = house.home.sessions / "fam.aside"

    async def set_aside() -> None:
        (house.home.sessions / "fam").rename(aside)

    await house.pool.begin_anew("fam", set_aside)
    await house.until(workers_spare=1)
    before = (aside / "group.jsonl").read_bytes()
    await house.turn("true")
    assert (aside / "group.jsonl").read_bytes() == before
    assert (house.home.sessions / "fam" / "group.jsonl").stat().st_size > 0
    assert house.pool.facts["workers_started"] == 2


async def test_a_spare_of_a_group_whose_folders_changed_is_thrown_away(house: House, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("a picture")
    photos.chmod(0o755)
    allow_list_path(house.home).write_text(json.dumps({
        "allowedRoots": [{"path": str(tmp_path)}], "blockedPatterns": [], "nonMainReadOnly": False,
    }))
    await house.turn("true")
    await house.lose()
    house.container = Container(mounts=(Wanted(host_path=str(photos), container_path="photos"),))
    assert "a picture" in await house.turn("cat /workspace/extra/photos/a.jpg")
    allow_list_path(house.home).unlink()
    assert "No such file" in await house.turn("cat /workspace/extra/photos/a.jpg 2>&1")
    assert house.pool.facts["workers"] == 1


async def test_pain13_what_commands_left_running_is_gone_with_the_worker(house: House) -> None:
    """Programs that leave their session and ignore every request, of many turns: none outlives the worker."""
    mark = f"mc{time.monotonic_ns()}"
    leaves = f"setsid sh -c 'trap \"\" TERM HUP INT; : > /tmp/left; sleep 600; :' {mark} >/dev/null 2>&1 &"
    for _ in range(3):
        # Until it says that it has left: before, it would be ended with the command.
        await house.turn(f"rm -f /tmp/left; {leaves} until [ -e /tmp/left ]; do sleep 0.05; done")
    assert len(processes_with(mark)) == 3, "the tool ends what stays in its session only"
    await house.pool.end_idle()
    assert processes_with(mark) == []


async def test_spares_and_workers_together_keep_the_bound(house: House) -> None:
    await house.turn("true")
    await house.lose()
    for group in ("b", "c", "d"):
        await house.turn("true", Tenant(group, f"console:{group}", is_main=False))
        assert house.pool.facts["workers"] <= 2
    assert "fam" not in house.pool.live
    if not isinstance(house.backend, Bubblewrap) or house.backend.has_groups:
        assert await house.backend.reap(house.installation) == 2, "so many are really there"


async def test_a_stop_while_a_spare_is_being_started_leaves_nothing(backend: Any, tmp_path: Path) -> None:
    for number, wait_s in enumerate((0.0, 0.05, 0.2)):
        made = House(backend, tmp_path / str(number))
        await made.turn("true")
        async with made.pool.lease(FAM) as worker:
            await worker.kill()
        await asyncio.sleep(wait_s)
        await asyncio.wait_for(made.pool.close(), WAIT_S)
        assert await backend.reap(made.installation) == 0
