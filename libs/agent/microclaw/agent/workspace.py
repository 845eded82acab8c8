"""The folders of a sandbox, and the only way tools turn a name into a path.

The sandbox itself is what confines the agent; this keeps the file tools, which take names from a model that may have
been talked into anything, inside the folders that are meant, symbolic links included.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microclaw.agent.relay import PORT, Relay
from microclaw.agent.tools.errors import ToolError


@dataclass(frozen=True)
class Workspace:
    """Where things are in here (`core.worker` fixes the places; tests choose others)."""

    root: Path
    egress_socket: Path
    #: Where the relay listens; 0 = anywhere.
    relay_port: int = PORT
    #: The programs' way to the door, once it is there.
    relay: Relay | None = None
    #: The main group may change what every group is told.
    shared_is_writable: bool = False

    @property
    def group(self) -> Path:
        return self.root / "group"

    @property
    def session(self) -> Path:
        return self.root / "session"

    @property
    def shared(self) -> Path:
        return self.root / "global"

    @property
    def project(self) -> Path:
        return self.root / "project"

    def readable(self, name: str) -> Path:
        """The real path of a file that may be read. Raises ToolError."""
        return self._inside(name, (self.group, self.shared, self.project))

    def writable(self, name: str) -> Path:
        """The real path of a file that may be written. Raises ToolError."""
        return self._inside(name, (self.group, self.shared) if self.shared_is_writable else (self.group,))

    def shown(self, path: Path) -> str:
        """A path as the agent sees it: relative to the group's folder where it is in there."""
        group = self.group.resolve()
        return str(path.relative_to(group)) if path.is_relative_to(group) else str(path)

    async def program_environment(self) -> dict[str, str] | None:
        """The environment of a program that runs in here, with its way to the door if there is one; None = as ours."""
        return await self.relay.environment(os.environ) if self.relay else None

    def _inside(self, name: str, roots: tuple[Path, ...]) -> Path:
        if "\0" in name:
            raise ToolError("a path can't hold a NUL character")
        real = (self.group / name).resolve()  # an absolute name replaces the group's folder
        for root in roots:
            if real.is_relative_to(root.resolve()):
                return real
        allowed = " or ".join(str(root) for root in roots)
        raise ToolError(f"{name} is outside {allowed}; use a path inside")


def workspace_from(env: Mapping[str, str]) -> Workspace:
    """`MICROCLAW_WORKSPACE`, `MICROCLAW_EGRESS_SOCKET` and `MICROCLAW_RELAY_PORT` move them, for tests."""
    return Workspace(
        root=Path(env.get("MICROCLAW_WORKSPACE", "/workspace")),
        egress_socket=Path(env.get("MICROCLAW_EGRESS_SOCKET", "/run/egress/egress.sock")),
        relay_port=int(env.get("MICROCLAW_RELAY_PORT", PORT)),
    )


def read_text(path: Path, bytes_max: int) -> tuple[str, bool]:
    """The text of a regular file and whether it was cut to `bytes_max`. Raises OSError; never blocks on a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path.name} is not a regular file")
        raw = file.read(bytes_max + 1)
    return raw[:bytes_max].decode("utf-8", "replace"), len(raw) > bytes_max
