from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.sandbox_service.plain import ECHO, OpenDoors, PlainBackend

from microclaw.core.container import Container
from microclaw.core.home import Home, home_from
from microclaw.core.settings import Sandbox, Settings
from microclaw.sandbox.pool import Pool


class Rig:
    """A pool over plain subprocesses."""

    def __init__(self, home: Home, program: str, **sandbox: Any) -> None:
        self.home = home
        # Without spares, unless a test is about them.
        self.settings = Settings(sandbox=Sandbox(**{"spare_s": 0, **sandbox}))
        self.backend = PlainBackend(program)
        self.doors = OpenDoors(home.data)

        #: What every group has of its own.
        self.container = Container()

        async def backend() -> PlainBackend:
            return self.backend

        async def own(_group: str) -> Container:
            return self.container

        self.pool = Pool(
            backend, self.doors, home, self.settings, installation="test", own=own,  # type: ignore[arg-type]
        )


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
