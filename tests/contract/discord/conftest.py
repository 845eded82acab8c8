"""One installation for all tests of a module that can share it: a connector's start takes a second of CPU."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.contract.discord.scene import Scene, discord


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Scene]:
    async with discord(media_max_mb=1) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared: Scene) -> AsyncIterator[Scene]:
    shared.server.calm()
    yield shared
