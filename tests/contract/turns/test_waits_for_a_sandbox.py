"""The engine's daemon is started again while people write: nobody's message fails, and nobody has to write again."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from tests.contract.processes import DEADLINE_S, installation, until
from tests.fakes.engine_socket import EngineSocket

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.core.ids import new_id
from microclaw.core.kinds import PromptMessage, ReplyRequested, RunRequested
from microclaw.sandbox.choose import make
from microclaw.sandbox.docker_engine import DockerEngine
from microclaw.sandbox.engine_sockets import sockets
from microclaw.sandbox.installation import installation_id

CONFIG = """
[sandbox]
backend = "docker"
memory_mb = 256
[model]
backend = "scripted"
"""


async def says(router: Bus, text: str) -> None:
    now = time.time_ns() // 1_000_000
    message = PromptMessage(id=new_id(now).hex(), sender_name="Ann", sent_ms=now, text=text)
    await router.publish(Draft("group:fam", RunRequested(group="fam", chat="console:fam", messages=(message,))))


async def test_a_message_waits_for_the_engine_and_is_answered_when_it_is_back(tmp_path: Path) -> None:
    docker = make("docker")
    assert isinstance(docker, DockerEngine)
    found = await docker.probe()
    if not found.usable:
        if "docker" in os.environ.get("MC_REQUIRE_ENGINE", "").split(","):
            pytest.fail(f"docker is required here and does not work: {found.reason}")
        pytest.skip(f"docker: {found.reason}")
    await docker.prepare()
    real = next(path for path in sockets("docker", os.environ) if path.exists())
    async with installation() as made:
        engine = EngineSocket(made.root / "e.sock", real)
        await engine.open()
        made.env["DOCKER_HOST"] = f"unix://{engine.path}"
        with made.home.config.open("a") as config:
            config.write(CONFIG)
        for name in ("broker", "egress", "queue", "sandbox"):
            made.start(name)
        router, console = await made.connect("router"), await made.connect("console")
        replies = console.subscribe(Subscription("console", ("reply.requested",)))

        async def next_reply() -> ReplyRequested:
            delivery = await asyncio.wait_for(anext(replies), DEADLINE_S)
            await console.ack(delivery)
            return delivery.envelope.read(ReplyRequested)

        try:
            await says(router, "one")
            assert (await next_reply()).text == "echo: one"
            await engine.close()
            await says(router, "two")
            await until(lambda: '"outcome": "retrying"' in made.log("queue"))
            await engine.open()
            answer = await next_reply()
            assert (answer.text, answer.origin) == ("echo: two", "answer"), "no notice, and nothing is lost"
            # Of the worker that the engine had when it went away nothing is left.
            client = await docker.connect()
            ours = {"label": f"microclaw={installation_id(made.home)}"}
            await until(lambda: len(client.containers(all=True, filters=ours)) == 1)
            assert client.containers(filters=ours)[0]["State"] == "running"
        finally:
            for name in ("sandbox", "queue", "egress"):
                # The sandbox ends its workers through our socket.
                await asyncio.to_thread(made.stop, name)
            await engine.close()
            await docker.reap(installation_id(made.home))
