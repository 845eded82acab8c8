"""One installation for all tests of a module that can share it: a connector's start takes a second of CPU."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.contract.telegram.bot import World, telegram


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[World]:
    async with telegram(media_max_mb=1) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    shared.clear()
    yield shared
