"""`/restart` in the main chat, under a real supervisord."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.mesh.harness import SERVICES, Mesh

from microclaw.bus.supervisor import Supervisor


async def test_with_a_mistake_in_the_configuration_it_stays_up_and_says_what_is_wrong(mesh: Mesh) -> None:
    with mesh.home.config.open("a") as file:
        file.write("\n[queue]\nmax_concurrent = 0\n")
    said = await mesh.answer("console:main", "/restart")
    assert said.startswith("I don't restart: ") and "max_concurrent" in said


@pytest.mark.parametrize("killed", ["router", "broker"])
async def test_the_owner_restarts_everything_and_is_told_once_that_it_is_back(mesh: Mesh, killed: str) -> None:
    supervisor = Supervisor(mesh.home.supervisor_socket)

    def pids() -> dict[str, int]:
        return {each.name: each.pid for each in supervisor.processes() if each.pid}

    before = await asyncio.to_thread(pids)
    await mesh.say("console:main", "/restart")
    await asyncio.sleep(random.uniform(0, 4))
    mesh.kill(killed)
    # Taken while it is under way: nothing of it is lost.
    await mesh.say("console:main", "echo after it")
    texts = [reply.text for reply in await mesh.replies("console:main", 3)]
    assert sum("I restart all my services" in text for text in texts) == 1
    back = [text for text in texts if text.startswith("I am back")]
    assert len(back) == 1 and "did not come back" not in str(texts)
    after = await asyncio.to_thread(pids)
    assert after.keys() == before.keys() and after["watch"] == before["watch"]
    assert all(after[name] != before[name] for name in SERVICES)
    await mesh.say("console:main", "echo once more")
    texts = [reply.text for reply in await mesh.replies("console:main", 4)]
    assert sum(text.startswith("I am back") for text in texts) == 1


async def test_a_restart_at_the_command_line_ends_when_all_are_back_and_leaves_no_alarm(mesh: Mesh) -> None:
    before = {name: mesh.pid(name) for name in SERVICES}
    # Stopped by hand: a restart of all starts it.
    await asyncio.to_thread(mesh.cli, "stop", "scheduler")
    done = await asyncio.to_thread(mesh.cli, "restart")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "broker restarted" and "scheduler started" in lines
    status = await asyncio.to_thread(mesh.cli, "status")
    assert status.returncode == 0 and "alarms" not in status.stdout, status.stdout
    assert all(mesh.pid(name) != before[name] for name in SERVICES)
    assert await mesh.answer("console:main", "echo hello")
