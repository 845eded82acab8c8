"""Broker, egress and sandbox as processes, agents in real bubblewrap sandboxes; the test is queue and console."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import pytest
from tests.contract.turns.desk import Desk

from microclaw.sandbox.choose import make


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """Skips where bubblewrap does not work, and fails where it must."""
    if sys.platform == "linux":
        found = asyncio.run(make("bubblewrap").probe())
        if found.usable:
            return
        reason = found.reason
    else:
        reason = "bubblewrap is for Linux"
    if "bubblewrap" in os.environ.get("MC_REQUIRE_ENGINE", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
async def desk(bubblewrap: None) -> AsyncIterator[Desk]:
    """Scripted agents in bubblewrap."""
    async with Desk.opened() as opened:
        yield opened
