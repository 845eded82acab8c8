"""A worker's life: it talks, it ends, it is ended, and what an earlier life left is cleared away."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace

import pytest

from microclaw.sandbox import choose
from microclaw.sandbox.apple import AppleContainer
from microclaw.sandbox.backend import EngineMissing, SandboxError
from microclaw.sandbox.bubblewrap import Bubblewrap
from microclaw.sandbox.docker_engine import DockerEngine

WAIT_S = 30


async def test_lines_go_in_and_come_out(backend, new_spec):
    sandbox = await backend.start(new_spec(["/bin/sh", "-c", 'while read line; do echo "got $line"; done; echo bye']))
    try:
        for number in range(50):
            await sandbox.send(f"line {number}\n".encode())
            assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == f"got line {number}\n".encode()
    finally:
        await sandbox.kill()


async def test_its_end_is_told(run):
    seen = await run(["/bin/sh", "-c", "echo out; echo problem >&2; printf 'no newline'; exit 7"])
    assert seen.text == "out\nno newline"
    assert (seen.ended.code, seen.ended.stderr_tail) == (7, "problem\n")
    assert not seen.ended.output_cut
    assert not seen.ended.out_of_memory


async def test_a_kill_is_told_and_can_be_repeated(backend, new_spec):
    sandbox = await backend.start(new_spec(["/bin/sh", "-c", "echo up; read line"]))
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"up\n"
    await asyncio.wait_for(asyncio.gather(sandbox.kill(), sandbox.kill()), WAIT_S)
    await sandbox.kill()
    ended = await sandbox.wait()
    assert ended.code == 137
    assert not ended.out_of_memory
    assert await sandbox.receive() is None
    with pytest.raises(SandboxError):
        await sandbox.send(b"still there?\n")


async def test_a_program_that_is_not_there(backend, new_spec, reading):
    """Some engines say so at once, some by an exit code; none hangs."""
    try:
        sandbox = await backend.start(new_spec(["/no/such/program"]))
    except SandboxError as error:
        assert "/no/such/program" in str(error)
        return
    seen = await reading(sandbox)
    assert seen.ended.code != 0
    assert "/no/such/program" in seen.ended.stderr_tail


async def test_many_at_once(backend, new_spec, reading):
    sandboxes = await asyncio.gather(*(backend.start(new_spec(["/bin/sh", "-c", f"echo {n}"])) for n in range(4)))
    seen = await asyncio.gather(*(reading(sandbox) for sandbox in sandboxes))
    assert [one.text for one in seen] == ["0\n", "1\n", "2\n", "3\n"]


async def test_the_agents_program_starts(backend, new_spec):
    """It says that it is ready once it is told who it is."""
    from microclaw.core.worker import Ready, Setup, decode_worker_line, encode_line

    sandbox = await backend.start(new_spec(backend.agent_argv(), env={"LANG": "C.UTF-8"}))
    try:
        await sandbox.send(encode_line(Setup(
            group="main", chat="console:main", is_main=True, assistant_name="Andy", timezone="UTC", backend="local",
        )))  # fmt: skip
        line = await asyncio.wait_for(sandbox.receive(), WAIT_S)
        if line is None:
            pytest.fail(f"it ended: {await sandbox.wait()}")
        assert isinstance(decode_worker_line(line), Ready)
    finally:
        await sandbox.kill()


async def test_a_start_that_is_given_up_leaves_nothing(backend, new_spec):
    """Engines go on with what they were asked: what comes of it must not stay."""
    mark = f"given-up-{os.getpid()}"
    for wait_s in (0.0, 0.02, 0.1, 0.3):
        spec = replace(new_spec(["/bin/sh", "-c", "read line"]), installation=mark)
        starting = asyncio.create_task(backend.start(spec))
        await asyncio.sleep(wait_s)
        if starting.cancel():
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(starting, WAIT_S)
        else:
            await (await starting).kill()
    assert await backend.reap(mark) == 0


async def test_iso12_the_reaper_takes_only_what_is_ours(backend, new_spec):
    ours, theirs = f"ours-{os.getpid()}", f"theirs-{os.getpid()}"
    first, second, other = [
        await backend.start(replace(new_spec(["/bin/sh", "-c", "echo up; read line; echo $line"]), installation=name))
        for name in (ours, ours, theirs)
    ]
    try:
        for sandbox in (first, second, other):
            assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"up\n"
        if not isinstance(backend, Bubblewrap) or backend.has_groups:
            assert await backend.reap(ours) == 2
            for sandbox in (first, second):
                assert (await asyncio.wait_for(sandbox.wait(), WAIT_S)).code == 137
        assert await backend.reap(ours) == 0
        await other.send(b"alive\n")
        assert await asyncio.wait_for(other.receive(), WAIT_S) == b"alive\n"
    finally:
        await asyncio.gather(*(sandbox.kill() for sandbox in (first, second, other)))


async def test_iso12_a_container_of_others_is_never_reaped(backend, new_spec):
    """Whatever it is called, and whatever else it says of itself; ours that never ran goes."""
    if not isinstance(backend, DockerEngine):
        # The others have no list that somebody else could be on.
        return
    mark = f"ours-{os.getpid()}"
    client = await backend.connect()
    made = {
        name: client.create_container_from_config(
            {"Image": backend.image, "Cmd": ["true"], "Labels": labels, "HostConfig": {"NetworkMode": "none"}}, name
        )["Id"]
        for name, labels in {
            f"microclaw-{mark}-a": {}, f"microclaw-{mark}-b": {"microclaw": f"{mark}-other"},
            f"microclaw-{mark}-c": {"microclaw.worker": mark}, f"microclaw-{mark}-d": {"microclaw": mark},
        }.items()
    }
    try:
        assert await backend.reap(mark) == 1
        left = {container["Id"] for container in client.containers(all=True)}
        assert left & set(made.values()) == set(list(made.values())[:3])
    finally:
        for container in set(made.values()) & {container["Id"] for container in client.containers(all=True)}:
            client.remove_container(container, force=True)


async def test_ac45_iso12_nothing_outlives_a_killed_service(backend, new_spec, tmp_path):
    """The service that started it is killed with -9; what it left is gone by itself or by the next life's reaper."""
    spec = new_spec(["/bin/sh", "-c", "echo up; sleep 600; sleep 600"])
    mark = f"life-{os.getpid()}-{time.monotonic_ns()}"
    program = f"""
import asyncio, sys
from microclaw.sandbox import choose
from microclaw.sandbox.backend import RunSpec
async def main():
    backend = choose.make({backend.name!r})
    sandbox = await backend.start(RunSpec(worker_id={spec.worker_id!r}, installation={mark!r},
        argv=["/bin/sh", "-c", "echo up; sleep 600; echo {mark}"], workdir="/workspace"))
    print((await sandbox.receive()).decode(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert service.stdout
    assert await asyncio.wait_for(service.stdout.readline(), WAIT_S) == b"up\n"
    assert holding(mark)
    service.kill()
    await service.wait()
    if not isinstance(backend, Bubblewrap):
        await backend.reap(mark)
    deadline = time.monotonic() + WAIT_S
    while holding(mark):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await backend.reap(mark)


def holding(mark: str) -> bool:
    from pathlib import Path

    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in line and b"sleep 600" in line and b"choose" not in line:
                return True
    return False


@pytest.mark.parametrize("missing", [
    lambda tmp: DockerEngine("docker", socket_path=tmp / "docker.sock"),
    lambda tmp: DockerEngine("podman", socket_path=tmp / "podman.sock"),
    lambda tmp: Bubblewrap(program=tmp / "bwrap"),
    lambda tmp: AppleContainer(program=str(tmp / "container")),
], ids=["docker", "podman", "bubblewrap", "apple"])  # fmt: skip
async def test_ac47_a_missing_engine_is_told_and_refused(missing, tmp_path):
    backend = missing(tmp_path)
    found = await backend.probe()
    assert not found.usable
    assert "\n" not in found.reason
    assert "install" in found.reason
    with pytest.raises(EngineMissing, match="configuration names"):
        await choose.first_usable([backend], auto=False)
    with pytest.raises(EngineMissing, match=r"only in a sandbox.*To have one"):
        await choose.first_usable([backend], auto=True)
    with pytest.raises(SandboxError):
        await backend.prepare()


async def test_ac47_the_first_that_works_is_taken(backend, tmp_path):
    gone = DockerEngine("docker", socket_path=tmp_path / "docker.sock")
    assert await choose.first_usable([gone, backend], auto=True) is backend


def test_ac47_there_is_no_backend_without_a_sandbox():
    for name in ("none", "host", "process", ""):
        with pytest.raises(ValueError, match="no backend"):
            choose.make(name)
    assert set(choose.NAMES) == {"docker", "podman", "bubblewrap", "apple"}
