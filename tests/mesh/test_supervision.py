"""supervisord, `watch` and the command line around a running mesh."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.mesh.harness import SERVICES, Mesh

from microclaw.bus.supervisor import Supervisor
from microclaw.core.alarms import read_alarms
from microclaw.core.requests import Lines, Read


async def until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not await asyncio.to_thread(what):
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.05)


async def test_the_command_line_on_a_running_mesh(mesh: Mesh) -> None:
    cli = lambda *arguments, **more: asyncio.to_thread(mesh.cli, *arguments, **more)  # noqa: E731

    status = await cli("status", "--json")
    seen = json.loads(status.stdout)
    assert status.returncode == 0
    assert seen["healthy"] is True
    assert {row["name"] for row in seen["services"]} == {*SERVICES, "watch"}
    assert all(row["ready"] for row in seen["services"] if row["name"] != "watch")

    again = await cli("up", "-d")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "running already (supervisord is process" in again.stderr

    answer = await cli("agent", "-m", "hello", "--json")
    assert json.loads(answer.stdout)["text"]

    talk = await cli("chat", stdin="help\n")
    assert talk.returncode == 0
    assert talk.stdout.startswith("Andy> ")

    # Nothing to say, only to hear: what was said while nobody looked, once.
    before = (await mesh.ask(Read(chat="console:main", only_last=True), Lines)).last
    for number in range(3):
        sent = await cli("message", "send", "--target", "console:main", "--message", f"while you were away {number}")
        assert sent.returncode == 0
    async with asyncio.timeout(30):
        while (await mesh.ask(Read(chat="console:main", only_last=True), Lines)).last < before + 3:
            await asyncio.sleep(0.05)
    for nothing in ("\n", ""):
        missed = await cli("chat", stdin=nothing)
        assert (missed.returncode, missed.stdout.splitlines()) == (
            0, [f"Andy> while you were away {number}" for number in range(3)] if nothing else [],
        ), missed

    added = await cli("cron", "add", "say tea", "--every", "1h", "--json")
    task = json.loads(added.stdout)["id"]
    assert task in (await cli("cron", "list")).stdout
    assert (await cli("cron", "disable", task)).returncode == 0
    assert [row["status"] for row in json.loads((await cli("cron", "list", "--json")).stdout)] == ["paused"]
    assert (await cli("cron", "rm", task)).returncode == 0

    groups = json.loads((await cli("groups", "list", "--json")).stdout)
    assert [group["chat"] for group in groups["groups"]] == ["console:main"]
    assert json.loads((await cli("runs", "list", "--json")).stdout)["failed"] == []

    logs = await cli("logs", "router", "-n", "500", "--json")
    assert any(json.loads(line)["event"] == "ready" for line in logs.stdout.splitlines())
    unknown = await cli("logs", "roter")
    assert (unknown.returncode, "there are: " in unknown.stderr) == (2, True)


async def test_status_says_which_service_is_down_and_since_when_until_it_is_started(mesh: Mesh) -> None:
    assert (await asyncio.to_thread(mesh.cli, "stop", "router")).returncode == 0
    status = await asyncio.to_thread(mesh.cli, "status")
    assert status.returncode == 5
    assert re.search(r"^router +stopped +- +down \d+ s", status.stdout, re.MULTILINE)
    row = next(
        row for row in json.loads((await asyncio.to_thread(mesh.cli, "status", "--json")).stdout)["services"]
        if row["name"] == "router"
    )
    assert (row["state"], row["pid"]) == ("STOPPED", None)
    assert time.time() - 60 < row["since"] <= time.time()
    assert (await asyncio.to_thread(mesh.cli, "start", "router")).returncode == 0
    await until(lambda: mesh.cli("status").returncode == 0)


async def test_what_supervisord_gave_up_is_told_and_revived(mesh: Mesh) -> None:
    # A bad configuration that comes after the start: the service can't start, until it is mended.
    mesh.home.config.write_text("[queue]\nmax_concurent = 1\n")
    mesh.kill("router")
    # FATAL, or on a loaded machine a loop of short lives: `watch` sees both.
    await until(lambda: any(alarm.service == "router" for alarm in read_alarms(mesh.home)), 60)
    status = await asyncio.to_thread(mesh.cli, "status", "--config", "/nonexistent.toml")
    assert status.returncode == 5
    assert "router  " in status.stdout.split("alarms")[1]
    assert "did you mean max_concurrent?" in mesh.log("router")
    mesh.home.config.write_text("")
    await until(lambda: mesh.process("router").state == "RUNNING", 60)


async def test_a_killed_supervisord_leaves_nothing_and_the_next_up_works_at_once(mesh: Mesh) -> None:
    before = {service: mesh.pid(service) for service in SERVICES}
    mesh.kill_supervisord()
    mesh.start()
    await mesh.ready()
    assert not any(_alive(pid) for pid in before.values())
    assert await mesh.answer("console:main", "hello")


async def test_two_ups_at_once_start_one_mesh() -> None:
    mesh = Mesh()
    try:
        both = await asyncio.gather(*(asyncio.to_thread(mesh.cli, "up", "-d") for _ in range(2)))
        assert sorted(each.returncode for each in both) == [0, 1]
        assert (await asyncio.to_thread(mesh.cli, "status")).returncode == 0
        assert (await asyncio.to_thread(mesh.cli, "down")).returncode == 0
        assert mesh.orphans() == {}
        down = await asyncio.to_thread(mesh.cli, "status")
        assert (down.returncode, "not running" in down.stderr) == (3, True)
    finally:
        await asyncio.to_thread(mesh.cli, "down")
        mesh.stop()


async def test_logs_are_rotated_by_supervisord_and_followed_across(mesh: Mesh) -> None:
    follower = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "microclaw.cli", "logs", "router", "-f", "-n", "0", env=mesh.env,
        stdout=subprocess.PIPE,
    )
    try:
        assert follower.stdout is not None
        await mesh.restart("router")
        line = await asyncio.wait_for(follower.stdout.readline(), 30)
        assert b"info" in line
    finally:
        follower.kill()
        await follower.wait()


async def test_sigterm_to_up_ends_everything_within_seconds(mesh: Mesh) -> None:
    begin = time.monotonic()
    await asyncio.to_thread(mesh.stop)
    assert time.monotonic() - begin < 20
    assert not mesh.home.supervisor_socket.exists() or mesh.orphans() == {}


async def test_what_is_asked_while_it_stops_is_told_so_in_one_line(mesh: Mesh) -> None:
    Supervisor(mesh.home.supervisor_socket).shutdown()
    said = []
    while (ended := await asyncio.to_thread(mesh.cli, "status")).returncode != 3 or "stopping" in ended.stderr:
        assert ended.returncode in (0, 3, 5), ended
        said.append(ended.stderr)
    assert all(line.count("\n") <= 1 and "Traceback" not in line for line in [*said, ended.stderr]), said
    assert any("is just stopping" in line for line in said), said


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_no_service_carries_a_lock_or_socket_of_supervisord(mesh: Mesh) -> None:
    for service in SERVICES:
        opened = [target for path in _descriptors(mesh.pid(service)) if (target := _target(path))]
        assert not [path for path in opened if path.endswith("up.lock")], service


def _descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return ""  # closed since it was listed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
