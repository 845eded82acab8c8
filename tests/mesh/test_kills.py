"""200 messages over 10 groups while every service is killed in turn: each answered once, in order.

MC_KILL_ROUNDS: how many times each service is killed (default 1; the long run: 10).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
from tests.mesh.harness import Mesh
from tests.mesh.traffic import SCRIPTED, Traffic

SERVICES = ("broker", "router", "queue", "scheduler", "sandbox", "egress", "console")
ROUNDS = int(os.environ.get("MC_KILL_ROUNDS", "1"))
MESSAGES = 200


async def kill(mesh: Mesh, service: str) -> None:
    # A service that is just being started again by supervisord has no process for a moment.
    while not mesh.kill(service, signal.SIGKILL):
        await asyncio.sleep(0.1)


async def restart(mesh: Mesh, service: str) -> None:
    await mesh.restart(service)


@pytest.mark.timeout(300 + 60 * ROUNDS)
@pytest.mark.parametrize("harm", [kill, restart], ids=["kill-9", "supervisorctl-restart"])
async def test_every_message_is_answered_once_in_order_whichever_service_is_harmed(harm) -> None:
    seed = random.Random(20261123)
    async with Mesh(SCRIPTED) as mesh:
        traffic = Traffic(mesh, groups=10)
        await traffic.register()
        victims = [service for _ in range(ROUNDS) for service in seed.sample(SERVICES, len(SERVICES))]
        sending = asyncio.create_task(traffic.send(MESSAGES * max(1, ROUNDS // 3), seed, pause_s=0.06))
        for victim in victims:
            await asyncio.sleep(seed.uniform(0.2, 1.8))
            await harm(mesh, victim)
        await sending
        answered = await traffic.answered()
    for folder, sent in traffic.sent.items():
        assert answered[folder] == sent, f"{folder}: each once, in order"


async def test_supervisord_killed_leaves_no_orphan_and_loses_nothing() -> None:
    seed = random.Random(7)
    async with Mesh(SCRIPTED) as mesh:
        traffic = Traffic(mesh, groups=2)
        await traffic.register()
        await traffic.send(10, seed, pause_s=0.0)
        mesh.kill_supervisord()
        assert not await asyncio.to_thread(mesh.orphans), "a service outlived its supervisor"
        mesh.start()
        await mesh.ready()
        await traffic.send(10, seed, pause_s=0.0)
        answered = await traffic.answered()
    assert answered == dict(traffic.sent)
