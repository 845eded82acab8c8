"""Which sandbox engines a test can use: a missing one skips on a laptop and fails where it is required."""

from __future__ import annotations

import asyncio
import os

import pytest

from microclaw.sandbox import choose


def need_engine(name: str) -> None:
    """Skip with the reason, or fail if `MC_REQUIRE_ENGINE` (a comma-separated list) names this engine."""
    found = asyncio.run(choose.make(name).probe())
    if found.usable:
        return
    if name in os.environ.get("MC_REQUIRE_ENGINE", "").split(","):
        pytest.fail(f"{name} is required here and does not work: {found.reason}")
    pytest.skip(f"{name}: {found.reason}")
