"""`microclaw cron` as a person types it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.contract.processes import until
from tests.mesh.harness import Mesh


async def cron(mesh: Mesh, *words: str, fails: int = 0) -> str:
    """What it prints. `fails` is the exit code that is expected."""
    done = await asyncio.to_thread(mesh.cli, "cron", *words)
    assert done.returncode == fails, (done.stdout, done.stderr)
    return done.stderr if fails else done.stdout


async def listed(mesh: Mesh) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await cron(mesh, "list", "--json"))
    return found


async def test_a_task_is_added_edited_rested_run_shown_and_removed(mesh: Mesh) -> None:
    facts = ("schedule", "value", "timezone", "catch_up", "script", "context", "prompt")
    await cron(
        mesh, "add", "Reminder: water", "--cron", "0 9 * * *", "--tz", "Europe/Berlin", "--catch-up", "all",
        "--check", "exit 0",
    )
    (row,) = await listed(mesh)
    task = row["id"]
    assert [row[fact] for fact in facts] == [
        "cron", "0 9 * * *", "Europe/Berlin", "all", "exit 0", "isolated", "Reminder: water"
    ]
    assert "(checked first) Reminder: water" in await cron(mesh, "list")
    await cron(mesh, "edit", task, "--every", "2h", "--catch-up", "once", "--check", "", "--context", "group")
    (row,) = await listed(mesh)
    assert [row[fact] for fact in facts] == [
        "interval", "7200000", "Europe/Berlin", "once", "", "group", "Reminder: water"
    ]
    for action, status in (("disable", "paused"), ("enable", "active")):
        await cron(mesh, action, task)
        assert [row["status"] for row in await listed(mesh)] == [status]
    await cron(mesh, "edit", task, "--check", "echo '{\"wakeAgent\": false}'")
    assert "runs now" in await cron(mesh, "run", task)

    async def ended() -> bool:
        return "skipped by check" in await cron(mesh, "runs", task)

    await until(ended)
    assert "nothing to change" in await cron(mesh, "edit", task, fails=2)
    assert "--catch-up" in await cron(mesh, "add", "x", "--every", "1h", "--catch-up", "sometimes", fails=2)
    assert "99" in await cron(mesh, "edit", task, "--cron", "99 * * * *", fails=2)
    await cron(mesh, "rm", task)
    assert await listed(mesh) == []
    assert "no task" in await cron(mesh, "runs", task, fails=2)


async def test_a_run_without_a_sandbox_is_shown_as_it_is_and_gone_with_its_task() -> None:
    async with Mesh('[sandbox]\nbackend = "docker"\n', {"DOCKER_HOST": "unix:///nowhere/docker.sock"}) as mesh:
        await cron(mesh, "add", "Reminder: water", "--at", "2020-01-01T08:00")
        (row,) = await listed(mesh)
        assert (row["status"], row["schedule"]) == ("active", "once")

        async def waits() -> bool:
            return "waiting" in await cron(mesh, "runs", row["id"])

        await until(waits)
        log = await cron(mesh, "runs", row["id"])
        assert "sandbox backend" in log and "error" not in log
        status = mesh.cli("status").stdout
        assert "runs that wait" in status and "docker" in status and "failed runs" not in status
        await cron(mesh, "rm", row["id"])

        async def gone() -> bool:
            found = json.loads((await asyncio.to_thread(mesh.cli, "status", "--json")).stdout)
            return (found["waiting_runs"], found["failed_runs"]) == ([], [])

        await until(gone)
