"""Rows that speak of the container program itself: Apple's backend with the stand-in program, whose command lines are
the real ones."""

from __future__ import annotations

import json
import os
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
            yield AppleContainer(program=str(_PROGRAM), image_name="agent:1"), state
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
    entries = [entry.rsplit(" ", 1) for entry in case.given["orphans"]]
    # Where a row names none of the original's containers, all of them are.
    has_prefix = any(name.startswith("nanoclaw-") for name, _ in entries)
    with _apple() as (apple, state):
        processes = {}
        for name, how in entries:
            if how != "running":
                continue
            is_ours = name.startswith("nanoclaw-") or not has_prefix
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
    """No agent is started, and the owner is told what to do. (The service itself stays, and looks again.)"""
    case.knows("runtime")
    if not str(case.given["runtime"]).startswith("not running"):
        raise Unmapped(f"runtime: {case.given['runtime']}")
    told: list[str] = []

    async def start(backend: Backend) -> None:
        raise AssertionError(f"{backend.name} was started")

    with _apple() as (apple, state):
        (state / "down").touch()
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
    return {"host_started": started, "clear_message": any("start" in line and len(line) > 40 for line in told)}


async def stop(case: Case) -> dict[str, Any]:
    """A worker that hears no polite word is killed all the same."""
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
