"""Rows that speak of the container program itself: Apple's backend with the stand-in program, whose command lines are
the real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.contract.rows import Case, Phrases, Unmapped

from microclaw.sandbox.apple import AppleContainer
from microclaw.sandbox.backend import Backend, EngineMissing, RunSpec, SpecRefused
from microclaw.sandbox.readiness import Readiness
from microclaw.sandbox.spec import check_spec

_PROGRAM = Path(__file__).parents[2] / "fakes" / "container"
_LABEL = "microclaw"
#: Words for how the container program is, and what of its state the stand-in has then.
_RUNTIMES: dict[str, tuple[str, ...]] = {
    "running": (), "already running": (), "not installed": (), "missing": (),
    "not running and cannot be started": ("down", "stuck"), "not running": ("down", "stuck"),
    "not running but can be started": ("down",), "not running and can be started": ("down",), "stopped": ("down",),
}


@contextmanager
def _apple() -> Iterator[tuple[AppleContainer, Path]]:
    with tempfile.TemporaryDirectory(prefix="mc-apple-") as folder:
        state = Path(folder)
        (state / "version").write_text("1.1.0\n")
        (state / "images").write_text("agent:1\n")
        (state / "running").mkdir()
        before = {name: os.environ.get(name) for name in ("FAKE_CONTAINER", "PATH")}
        os.environ |= {"FAKE_CONTAINER": folder, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        try:
            yield AppleContainer(program=str(_PROGRAM), image_name="agent:1", may_start=True), state
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


async def orphans(case: Case) -> dict[str, Any]:
    """Those with the original's prefix are ours; what is stopped is not there any more (`--rm`)."""
    case.knows("orphans", *(key for key in case.given if key.startswith("stop_of_")))
    stubborn = {key.removeprefix("stop_of_") for key, how in case.given.items()
                if key.startswith("stop_of_") and how == "fails"}
    if not isinstance(case.given["orphans"], list):
        raise Unmapped(f"orphans: {case.given['orphans']}")
    entries = [entry.rsplit(" ", 1) for entry in case.given["orphans"]]
    # A row that tells how stopping one of them goes speaks of ours, whatever it calls them.
    are_ours = any(f"stop_of_{name}" in case.given for name, _ in entries)
    with _apple() as (apple, state):
        processes = {}
        for name, how in entries:
            if how != "running":
                continue
            is_ours = name.startswith("nanoclaw-") or are_ours
            process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
            processes[name] = process
            # Its process can't be found: the stand-in fails to stop it.
            pid = 0 if name in stubborn else process.pid
            (state / "running" / f"{name}.json").write_text(json.dumps({
                "pid": pid or _gone(), "labels": {_LABEL: "ours" if is_ours else "theirs"},
            }))
        started = False
        found: list[Backend] = []

        async def start(backend: Backend) -> None:
            nonlocal started
            await backend.reap("ours")
            started = True

        try:
            await start(apple)
        finally:
            stopped = [name for name, process in processes.items() if _is_dead(process)]
            for process in processes.values():
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert not found
    return {"stopped": stopped, "host_started": started} | {f"{name}_stopped": name in stopped for name, _ in entries}


def _gone() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def _is_dead(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        return False
    return True


def name(case: Case) -> dict[str, Any]:
    """A name reaches an engine only as an argument, and only if it could be one of ours."""
    case.knows("name")
    try:
        check_spec(RunSpec(worker_id=case.given["name"], installation="i", argv=["true"], workdir="/workspace"))
    except SpecRefused:
        return {"refused": True}
    return {"refused": False}


async def runtime(case: Case) -> dict[str, Any]:
    """Where it can't be had, no agent is started, and the owner is told what to do. (The service itself stays, and
    looks again.)"""
    case.knows("runtime")
    said = str(case.given["runtime"])
    if said not in _RUNTIMES:
        raise Unmapped(f"runtime: {said}")
    told: list[str] = []

    async def start(backend: Backend) -> None:
        await backend.reap("ours")

    with _apple() as (apple, state):
        for fact in _RUNTIMES[said]:
            (state / fact).touch()
        if said in ("not installed", "missing"):
            apple = AppleContainer(program=str(state / "no-such-program"), image_name="agent:1", may_start=True)
        readiness = Readiness([apple], auto=False, start=start, trouble=told.append)
        import asyncio

        looking = asyncio.create_task(readiness.keep_looking())
        try:
            await readiness.get()
            started = True
        except EngineMissing as error:
            started = False
            told.append(str(error))
        finally:
            looking.cancel()
            await asyncio.wait({looking})
    return {
        "host_started": started,
        # It says what to do.
        "clear_message": any(re.search("start|install", line) and len(line) > 40 for line in told),
        "runtime_started": started and "down" in _RUNTIMES[said],
    }


async def stop(case: Case) -> dict[str, Any]:
    """No worker is asked politely for long: whatever comes of that, it is killed."""
    case.knows("stop_command")
    with _apple() as (apple, state):
        spec = RunSpec(
            worker_id="w", installation="ours", workdir="/tmp",
            argv=["/bin/sh", "-c", "echo up; trap '' TERM INT HUP; sleep 60; sleep 60"],
        )
        sandbox = await apple.start(spec)
        assert await sandbox.receive() == b"up\n"
        await sandbox.kill()
        code = (await sandbox.wait()).code
        left = list((state / "running").iterdir())
    return {"then": Phrases({"SIGKILL": code == 128 + signal.SIGKILL and not left})}
