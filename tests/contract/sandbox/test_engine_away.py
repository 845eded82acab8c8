"""The engine's daemon goes away and comes back: what it had of ours goes, and nothing else."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from tests.fakes.engine_socket import EngineSocket

from microclaw.sandbox.backend import SandboxError
from microclaw.sandbox.docker_engine import DockerEngine
from microclaw.sandbox.engine_sockets import sockets

WAIT_S = 60
PROGRAM = ["/bin/sh", "-c", "echo up; read line; echo $line"]


async def test_iso12_what_an_engine_left_when_it_went_away_is_removed_when_it_is_back(backend, new_spec, tmp_path):
    if not isinstance(backend, DockerEngine):
        # The others have no daemon that could go away.
        return
    real = next(path for path in sockets(backend.name, os.environ) if path.exists())
    door = EngineSocket(tmp_path / "e.sock", real)
    await door.open()
    away = DockerEngine(backend.name, image_name=backend.image, socket_path=door.path)
    ours = f"ours-{os.getpid()}"
    spec = replace(new_spec(PROGRAM), installation=ours)
    other = await backend.start(replace(new_spec(PROGRAM), installation=f"{ours}-other"))
    client = await backend.connect()

    def there() -> set[str]:
        return {
            container["Labels"]["microclaw.worker"]
            for container in client.containers(all=True, filters={"label": "microclaw.worker"})
        } & {spec.worker_id, again.worker_id, other.worker_id}

    again = replace(new_spec(PROGRAM), installation=ours)
    try:
        cut_off = await away.start(spec)
        assert await asyncio.wait_for(cut_off.receive(), WAIT_S) == b"up\n"
        assert await away.clear_away(ours) == 0
        await door.close()
        with pytest.raises(SandboxError):
            await asyncio.wait_for(cut_off.wait(), WAIT_S)
        with pytest.raises(SandboxError):
            await away.clear_away(ours)
        await door.open()
        live = await away.start(again)
        assert await asyncio.wait_for(live.receive(), WAIT_S) == b"up\n"
        assert there() == {spec.worker_id, again.worker_id, other.worker_id}
        assert await away.clear_away(ours) == 1
        assert there() == {again.worker_id, other.worker_id}
        assert await away.clear_away(ours) == 0
        for sandbox in (live, other):
            await sandbox.send(b"alive\n")
        assert await asyncio.wait_for(live.receive(), WAIT_S) == b"alive\n"
        await asyncio.wait_for(live.wait(), WAIT_S)
    finally:
        await other.kill()
        await door.close()
        await backend.reap(ours)
