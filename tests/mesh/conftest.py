"""Every test here gets the marker `mesh`, and the fixture `mesh` if it asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.mesh.harness import Mesh

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.mesh)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    """A mesh with the default configuration, ready."""
    async with Mesh() as running:
        yield running
