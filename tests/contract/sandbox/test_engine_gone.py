"""An engine that goes away and comes back: what runs meanwhile is told that there is none, and nothing is for good."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.fakes.engine_socket import EngineSocket

from microclaw.sandbox.backend import EngineMissing
from microclaw.sandbox.docker_engine import DockerEngine
from microclaw.sandbox.engine_sockets import sockets


@pytest.fixture
def real(backend) -> Path:
    """The socket of the engine that is tested."""
    if not isinstance(backend, DockerEngine):
        pytest.skip("it has no daemon that could go away")
    return next(path for path in sockets(backend.name, os.environ) if path.exists())


async def test_a_daemon_that_is_started_again_is_missed_and_then_used_again(backend, real, new_spec, reading, tmp_path):
    socket = EngineSocket(tmp_path / "e.sock", real)
    engine = DockerEngine(backend.name, socket_path=socket.path)
    hello = ["/bin/sh", "-c", "echo hello"]
    with pytest.raises(EngineMissing, match="install and start it"):
        await engine.start(new_spec(hello))
    await socket.open()
    assert (await reading(await engine.start(new_spec(hello)))).text == "hello\n"
    for _ in range(2):
        await socket.close()
        with pytest.raises(EngineMissing, match="start it again"):
            await engine.start(new_spec(hello))
        await socket.open()
        assert (await reading(await engine.start(new_spec(hello)))).text == "hello\n"
    await socket.close()


async def test_an_image_that_somebody_removed_is_missed_and_had_again(backend, real, new_spec, reading, monkeypatch):
    name = f"microclaw-test-{os.getpid()}:1"
    engine = DockerEngine(backend.name, image_name=name)
    client = await backend.connect()

    def tag() -> None:
        client.tag(backend.image, *name.split(":"))

    tag()
    try:
        assert (await reading(await engine.start(new_spec(["echo", "one"])))).text == "one\n"
        client.remove_image(name, noprune=True)
        with pytest.raises(EngineMissing, match="is made again"):
            await engine.start(new_spec(["echo", "none"]))
        made_again = engine.prepare

        async def prepare() -> None:
            tag()
            await made_again()

        monkeypatch.setattr(engine, "prepare", prepare)
        assert (await reading(await engine.start(new_spec(["echo", "two"])))).text == "two\n"
    finally:
        client.remove_image(name, noprune=True)
