"""Who this installation is among others on the machine, and what of it no run may see."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tzlocal import get_localzone_name

import microclaw.core
from microclaw.core.errors import UnhealthyError
from microclaw.core.home import Home
from microclaw.core.schedule import ScheduleError, zone_named
from microclaw.sandbox.extra_mounts import allow_list_path

#: Random bytes of an installation's id.
ID_BYTES = 8

_ID = re.compile(r"[0-9a-f]{16}\Z")

#: The parts of a checkout of MicroClaw that the main group sees. What else lies there (a `.env`, `.git`, a virtual
#: environment, state) is not among them.
PROJECT_PARTS = (
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "pyproject.toml",
    "libs", "services", "migrations", "deploy", "device", "docs", "tests", "bench",
)  # fmt: skip


def installation_id(home: Home) -> str:
    """This installation's id, made at random at its first start and kept since.

    :raises UnhealthyError: the file holds something else.
    """
    path = home.data / "installation"
    fresh = path.with_suffix(".new")
    if not path.exists():
        # By renaming, so that a kill leaves a whole id or none.
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(os.urandom(ID_BYTES).hex() + "\n")
            file.flush()
            os.fsync(handle)
        fresh.rename(path)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not _ID.match(text):
        raise UnhealthyError(f"{path} does not hold an installation's id; delete it and restart the sandbox service")
    return text


def closed_folders(home: Home) -> tuple[Path, ...]:
    """What no run may see: keys, databases, logs, sockets and the configuration."""
    return (home.secrets, home.data, home.logs, home.run, home.config, allow_list_path(home))


def project_parts(home: Home) -> tuple[Path, ...]:
    """What the main group sees of the checkout that this program runs from; nothing where it was installed.

    A part in which this installation keeps its state or its configuration is left out.
    """
    root = Path(microclaw.core.__path__[0]).resolve().parents[3]
    if not (root / "pyproject.toml").is_file() or not (root / "ARCHITECTURE.md").is_file():
        return ()
    private = [path.resolve() for path in (home.state, *closed_folders(home), home.groups, home.sessions)]
    found = (root / name for name in PROJECT_PARTS)
    return tuple(
        part for part in found
        if part.exists() and not part.is_symlink()
        and not any(path == part or part in path.parents or path in part.parents for path in private)
    )


def owner_zone(configured: str) -> str:
    """The configured zone's name, else this machine's; UTC where the machine has none that is known by name."""
    try:
        return zone_named(configured or get_localzone_name() or "UTC").key
    except (ScheduleError, LookupError, ValueError):
        return "UTC"
