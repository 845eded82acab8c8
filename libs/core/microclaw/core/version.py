"""The version, where it costs nothing to read. `tests/tidy` holds it equal to pyproject.toml's."""

from __future__ import annotations

VERSION = "0.1.0"
