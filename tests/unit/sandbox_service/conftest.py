from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.sandbox_service.plain import ECHO, PlainBackend

from microclaw.core.home import Home, home_from
from microclaw.core.requests import Door
from microclaw.core.settings import Sandbox, Settings
from microclaw.sandbox.pool import Pool


class OpenDoors:
    """Doors that lead nowhere; who has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open_now: set[str] = set()

    async def open(self, worker_id: str, group: str) -> Door:
        self.open_now.add(worker_id)
        return Door(directory=str(self.folder))

    def close(self, worker_id: str) -> None:
        self.open_now.discard(worker_id)


class Rig:
    """A pool over plain subprocesses."""

    def __init__(self, home: Home, program: str, **sandbox: Any) -> None:
        self.home = home
        self.settings = Settings(sandbox=Sandbox(**sandbox))
        self.backend = PlainBackend(program)
        self.doors = OpenDoors(home.data)

        async def backend() -> PlainBackend:
            return self.backend

        self.pool = Pool(backend, self.doors, home, self.settings, installation="test")  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = home_from({"MICROCLAW_HOME": str(tmp_path / "h")})
    made.create()
    return made


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Callable[..., Rig]]:
    """`rig(program, max_workers=…)`."""
    made: list[Rig] = []

    def make(program: str = ECHO, **sandbox: int) -> Rig:
        made.append(Rig(home, program, **sandbox))
        return made[-1]

    yield make
    for each in made:
        await each.pool.close()
        await each.backend.end()
