"""A whole run against a model server in both dialects, with a tool call in the real sandbox; the key stays away."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from tests.engines import need_engine
from tests.fakes.llm_server import FakeLLM, Reply
from tests.mesh.harness import Mesh

#: No part of it occurs anywhere by chance.
CANARY = "sk-canary-7Qx2vV9mTz4LrWb8"

#: Looks at everything a process in the sandbox can look at, and prints each place that holds the canary's middle.
SEARCH = r"""
mark='canary-7Qx2[v]V9m'  # a pattern that does not match itself, as it stands in this very command line
env | grep -c "$mark"
cat /proc/*/environ /proc/*/cmdline /proc/*/mountinfo 2>/dev/null | tr '\0' '\n' | grep -c "$mark"
find / /tmp /workspace -xdev -type f -size -2000k -not -path '/proc/*' -not -path '/sys/*' \
    -not -path '/workspace/session/*' \
    -not -path '/usr/*' -not -path '/opt/*' -print0 2>/dev/null | xargs -0 grep -l "$mark" 2>/dev/null | head
echo "searched $((6*7))"
"""


def config(dialect: str, backend: str, url: str) -> str:
    return (
        f'[model]\nbackend = "{dialect}"\nname = "test-model"\nbase_url = "{url}"\nkey = "llm"\n'
        f'[sandbox]\nbackend = "{backend}"\n'
    )


def keep_key(mesh: Mesh, value: str = CANARY) -> None:
    kept = mesh.cli("secrets", "set", "llm", stdin=value + "\n")
    assert kept.returncode == 0, kept.stderr


def holders(folder: Path, mark: bytes) -> list[Path]:
    """Files below `folder` that hold these bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and mark in path.read_bytes()]


@pytest.mark.engine
@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ["bubblewrap", "docker"])
@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_ac48_a_model_runs_a_tool_in_the_sandbox_and_the_key_is_nowhere_else(dialect: str, backend: str) -> None:
    await asyncio.to_thread(need_engine, backend)
    steps = [Reply(calls=[("bash", {"command": SEARCH})]), Reply(text="The answer is there.")]
    fake = FakeLLM(key=CANARY, script=lambda asked: steps[min(asked.step, 1)])
    async with fake.serve(), Mesh(config(dialect, backend, fake.url)) as mesh:
        await asyncio.to_thread(keep_key, mesh)
        assert await mesh.answer("console:main", "look around", timeout_s=120) == "The answer is there."
        seen = fake.requests[-1].results[0]
        assert "searched 42" in seen, "the tool really ran"
        assert seen.split("searched")[0].split() == ["0", "0"], f"the key is inside the sandbox: {seen}"
        if backend == "docker":
            ids = subprocess.run(["docker", "ps", "-q", "--filter", "label=microclaw"], capture_output=True, text=True,
                                 check=True).stdout.split()
            assert ids, "the worker's container is still there, warm"
            inspected = subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True).stdout
            assert CANARY.encode() not in inspected
        assert all(CANARY not in str(asked.body) for asked in fake.requests)
        kept = holders(mesh.root, CANARY.encode())
        assert {path.parent for path in kept} <= {mesh.home.secrets}, f"the key is in {kept}"
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                assert CANARY.encode() not in path.read_bytes() or int(path.parent.name) == os.getpid()
            except OSError:
                continue


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_a_bad_key_is_told_in_the_chat_at_once_and_nothing_is_lost(dialect: str) -> None:
    await asyncio.to_thread(need_engine, "bubblewrap")
    fake = FakeLLM(key=CANARY, script=lambda _asked: Reply(text="at last"))
    async with fake.serve(), Mesh(config(dialect, "bubblewrap", fake.url)) as mesh:
        await asyncio.to_thread(keep_key, mesh, "sk-wrong-but-long-enough-000")
        notice = await mesh.answer("console:main", "hello?")
        assert "key" in notice.lower()
        assert len(fake.requests) <= 2, "a bad key is not tried again and again"
        assert "key" in mesh.cli("status", "--json").stdout, "and told in status"
        await asyncio.to_thread(keep_key, mesh)
        assert await mesh.answer("console:main", "and now?") == "at last"
        assert "hello?" in fake.requests[-1].prompt, "the message that failed is in the next prompt"
        assert "and now?" in fake.requests[-1].prompt


async def test_a_model_that_is_down_is_tried_again_until_it_answers() -> None:
    await asyncio.to_thread(need_engine, "bubblewrap")
    faults = [Reply(status=500), Reply(text="half an", cut_after=3), Reply(garbage="<html>nonsense</html>")]
    fake = FakeLLM(key=CANARY, script=lambda _asked: faults.pop(0) if faults else Reply(text="whole"))
    async with fake.serve(), Mesh(config("anthropic", "bubblewrap", fake.url)) as mesh:
        await asyncio.to_thread(keep_key, mesh)
        assert await mesh.answer("console:main", "hello?", timeout_s=90) == "whole"
        assert [line.text for line in await mesh.replies("console:main")] == ["whole"]
