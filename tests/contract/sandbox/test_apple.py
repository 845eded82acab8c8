"""Apple's container, by the command lines that it would be given. The stand-in takes exactly these and runs the command
as an ordinary process: what the virtual machine itself keeps is not shown here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from microclaw.sandbox.apple import AppleContainer
from microclaw.sandbox.backend import EngineMissing, Limits, Mount, SandboxError, SpecRefused

PROGRAM = Path(__file__).parents[2] / "fakes" / "container"
WAIT_S = 30


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "version").write_text("1.1.0\n")
    (folder / "images").write_text("agent:1\n")
    monkeypatch.setenv("FAKE_CONTAINER", str(folder))
    # The stand-in is a script of this Python.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return folder


@pytest.fixture
def apple(state) -> AppleContainer:
    return AppleContainer(program=str(PROGRAM), image_name="agent:1")


def calls(state: Path) -> list[list[str]]:
    return [json.loads(line) for line in (state / "calls").read_text().splitlines()]


async def test_ac37_the_command_line(apple, state, new_spec, folders, reading):
    group, shared, door = folders("group", "shared", "door")
    (door / "egress.sock").write_text("")
    spec = new_spec(
        ["/bin/sh", "-c", "pwd; echo $ONE"], env={"ONE": "1"}, door=door, workdir="/workspace/group",
        mounts=[Mount(group, "/workspace/group", writable=True), Mount(shared, "/workspace/global")],
        limits=Limits(memory_bytes=(100 << 20) + 1, pids=50, cpus=1.2, open_files=200),
    )  # fmt: skip
    seen = await reading(await apple.start(spec))
    assert seen.lines == [str(group), "1"], seen
    (given,) = [call for call in calls(state) if call[0] == "run"]
    uid, gid = given[given.index("--uid") + 1], given[given.index("--gid") + 1]
    name = f"microclaw-{spec.installation}-{spec.worker_id}"
    assert "0" not in (uid, gid)
    assert given == [
        "run", "--interactive", "--rm", "--name", name, "--progress", "none",
        "--network", "none", "--no-dns", "--read-only", "--cap-drop", "ALL", "--init",
        "--cpus", "2", "--memory", "101M", "--tmpfs", "/tmp", "--uid", uid, "--gid", gid,
        "--workdir", "/workspace/group",
        "--label", f"microclaw={spec.installation}", "--label", f"microclaw.worker={spec.worker_id}",
        "--ulimit", "nofile=200:200", "--ulimit", "nproc=50:50", "--ulimit", "core=0:0",
        "--ulimit", "fsize=4294967296:4294967296",
        "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--env", "HOME=/tmp",
        "--env", "ONE=1",
        "--mount", f"type=bind,source={group},target=/workspace/group",
        "--mount", f"type=bind,source={shared},target=/workspace/global,readonly",
        "--volume", f"{door}/egress.sock:/run/egress/egress.sock",
        "--entrypoint", "/bin/sh", "agent:1", "-c", "pwd; echo $ONE",
    ]  # fmt: skip


async def test_lines_and_end(apple, new_spec, reading):
    sandbox = await apple.start(new_spec(["/bin/sh", "-c", "while read line; do echo got $line; done; exit 3"]))
    await sandbox.send(b"one\n")
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"got one\n"
    sandbox._process.stdin.close()
    assert (await reading(sandbox)).ended.code == 3


async def test_ac44_output_is_cut(apple, new_spec, reading):
    seen = await reading(await apple.start(new_spec(["/bin/sh", "-c", "yes"], limits=Limits(output_bytes=1 << 16))))
    assert seen.ended.output_cut
    assert seen.ended.code == 137


async def test_ac45_a_kill_goes_to_the_container_by_name(apple, state, new_spec):
    spec = new_spec(["/bin/sh", "-c", "echo up; trap '' TERM; sleep 600; sleep 600"])
    sandbox = await apple.start(spec)
    assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"up\n"
    await asyncio.wait_for(sandbox.kill(), WAIT_S)
    await sandbox.kill()
    assert (await sandbox.wait()).code == 137
    name = f"microclaw-{spec.installation}-{spec.worker_id}"
    assert ["kill", name] in calls(state)
    assert ["delete", "--force", name] in calls(state)
    with pytest.raises(SandboxError):
        await sandbox.send(b"x\n")


async def test_the_reaper_takes_only_what_is_ours(apple, state, new_spec):
    import dataclasses

    sandboxes = [
        await apple.start(dataclasses.replace(new_spec(["/bin/sh", "-c", "echo up; read x"]), installation=name))
        for name in ("ours", "ours", "theirs")
    ]
    for sandbox in sandboxes:
        assert await asyncio.wait_for(sandbox.receive(), WAIT_S) == b"up\n"
    assert await apple.reap("ours") == 2
    assert await apple.reap("ours") == 0
    assert len(list((state / "running").iterdir())) == 1
    await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))


async def test_the_image_is_built_when_it_is_missing(state):
    said: list[str] = []
    apple = AppleContainer(program=str(PROGRAM), say=said.append)
    await apple.prepare()
    built = [call for call in calls(state) if call[0] == "build"]
    assert [call[4].partition(":")[0] for call in built] == ["microclaw-site", "microclaw-agent"]
    # The second stands on the first.
    assert built[1][6] == f"BASE={built[0][4]}"
    assert not Path(built[0][-1]).exists()
    assert len(said) == 2
    await apple.prepare()
    assert len([call for call in calls(state) if call[0] == "build"]) == 2


async def test_an_image_that_can_not_be_had(state):
    with pytest.raises(EngineMissing, match="no registry"):
        await AppleContainer(program=str(PROGRAM), image_name="other:1").prepare()


async def test_ac47_an_old_version_is_refused(apple, state):
    (state / "version").write_text("0.9.1")
    found = await apple.probe()
    assert not found.usable
    assert "0.9.1" in found.reason
    assert "1.1.0" in found.reason
    (state / "version").write_text("no version at all")
    assert not (await apple.probe()).usable


async def test_ac47_stopped_services_are_told(apple, state):
    (state / "down").touch()
    found = await apple.probe()
    assert not found.usable
    assert "container system start" in found.reason
    assert ["system", "start"] not in calls(state)


async def test_the_service_starts_stopped_services_and_tells_where_it_can_not(state):
    (state / "down").touch()
    (state / "stuck").touch()
    apple = AppleContainer(program=str(PROGRAM), image_name="agent:1", may_start=True)
    found = await apple.probe()
    assert not found.usable
    assert "failed to get a response" in found.reason
    assert "container system start" in found.reason
    (state / "stuck").unlink()
    assert (await apple.probe()).usable
    assert (await apple.probe()).usable
    assert calls(state).count(["system", "start"]) == 2


async def test_a_sound_one_is_taken(apple, state):
    found = await apple.probe()
    assert (found.usable, found.version) == (True, "container 1.1.0")


async def test_a_folder_with_a_comma_is_refused(apple, new_spec, folders):
    (odd,) = folders("a,b")
    with pytest.raises(SpecRefused, match="comma"):
        await apple.start(new_spec(["true"], mounts=[Mount(odd, "/workspace/group")]))
