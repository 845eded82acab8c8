"""One suite for every backend that can run here. A missing engine skips with its reason on a laptop, and fails where
`MC_REQUIRE_ENGINE` (a comma-separated list) names it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from microclaw.sandbox import choose
from microclaw.sandbox.backend import Backend, Ended, Limits, RunSpec, Sandbox

#: Generous: the machine may be busy.
RUN_WAIT_S = 60
#: In the environment and on the disk of this process; nothing inside may ever show it.
CANARY = "canary-5e1f3c77-never-inside"

_numbers = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """What a run printed and how it ended."""

    text: str
    ended: Ended

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture(scope="session", autouse=True)
def canary() -> Iterator[str]:
    os.environ["MC_TEST_CANARY"] = CANARY
    yield CANARY
    del os.environ["MC_TEST_CANARY"]


@pytest.fixture(scope="session", params=["bubblewrap", "docker", "podman"])
def backend(request: pytest.FixtureRequest, canary: str) -> Iterator[Backend]:
    name = str(request.param)
    candidate = choose.make(name)
    found = asyncio.run(candidate.probe())
    if not found.usable:
        if name in os.environ.get("MC_REQUIRE_ENGINE", "").split(","):
            pytest.fail(f"{name} is required here and does not work: {found.reason}")
        pytest.skip(f"{name}: {found.reason}")
    asyncio.run(candidate.prepare())
    yield candidate
    for installation in (f"test-{os.getpid()}", "probe"):
        asyncio.run(candidate.reap(installation))


@pytest.fixture
def new_spec() -> Callable[..., RunSpec]:
    """A RunSpec with a worker id of its own."""

    def make(argv: list[str], **fields: object) -> RunSpec:
        worker_id = f"t{os.getpid()}-{next(_numbers)}"
        settings: dict[str, object] = {"workdir": "/workspace", "limits": Limits(memory_bytes=128 << 20, pids=64)}
        return RunSpec(
            worker_id=worker_id, installation=f"test-{os.getpid()}", argv=argv, **{**settings, **fields}  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def run(backend: Backend, new_spec: Callable[..., RunSpec]) -> Callable[..., Awaitable[Outcome]]:
    """Run a command to its end."""

    async def go(argv: list[str], **fields: object) -> Outcome:
        return await outcome(await backend.start(new_spec(argv, **fields)))

    return go


@pytest.fixture
def python(backend: Backend, run: Callable[..., Awaitable[Outcome]]) -> Callable[..., Awaitable[Outcome]]:
    """Run a Python program inside to its end."""

    async def go(program: str, *args: str, **fields: object) -> Outcome:
        return await run([backend.agent_argv()[0], "-I", "-S", "-c", program, *args], **fields)

    return go


@pytest.fixture
def reading() -> Callable[[Sandbox], Awaitable[Outcome]]:
    """Reads a sandbox to its end."""
    return outcome


async def outcome(sandbox: Sandbox) -> Outcome:
    said: list[bytes] = []

    async def read() -> Ended:
        while (line := await sandbox.receive()) is not None:
            said.append(line)
        return await sandbox.wait()

    try:
        ended = await asyncio.wait_for(read(), RUN_WAIT_S)
    finally:
        await sandbox.kill()
    return Outcome(b"".join(said).decode(), ended)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., list[Path]]:
    """Folders of a group, made."""

    def make(*names: str) -> list[Path]:
        made = [tmp_path / name for name in names]
        for folder in made:
            folder.mkdir()
        return made

    return make
