"""A sandbox's folders without a sandbox, and a short place for its socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from microclaw.agent.workspace import Workspace


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    """Group, session and global folder, and the path of the egress socket (short: a Unix socket's path must be)."""
    root = Path(tempfile.mkdtemp(prefix="mca-"))
    for name in ("group", "session", "global", "project"):
        (root / name).mkdir()
    yield Workspace(root=root, egress_socket=root / "egress.sock")
    shutil.rmtree(root)
