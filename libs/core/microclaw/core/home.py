"""Where an installation keeps its things.

`MICROCLAW_HOME` puts all in one folder, so that tests and second installations don't meet; without it configuration
and state go where XDG says. All folders are private to the user (0700).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import PlatformDirs

#: Longest path a Unix socket may have, with room for the longest socket name below `run/`
#: (`egress/<worker id>/egress.sock`); the kernels' limits are 108 (Linux) and 104 (macOS).
RUN_DIR_CHARS_MAX = 52


@dataclass(frozen=True)
class Home:
    """The folders of one installation. Nothing is created by reading them: `create` does that."""

    #: The configuration file.
    config: Path
    #: Databases, the journal.
    data: Path
    #: One log a service, rotated by supervisord.
    logs: Path
    #: Sockets and pid files. Short, because a Unix socket's path is.
    run: Path
    #: One folder a group, the agent's workspace.
    groups: Path
    #: One folder a group, the agent's transcripts.
    sessions: Path
    #: The egress service's own; nobody else opens it.
    secrets: Path

    @property
    def bus(self) -> str:
        """The broker's address."""
        return f"ipc://{self.run / 'bus.sock'}"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    def database(self, service: str) -> Path:
        """The SQLite file that `service`, and nobody else, opens."""
        return self.data / f"{service}.db"

    def create(self) -> None:
        """Make the folders that are missing, private to the user."""
        for folder in (self.config.parent, self.data, self.logs, self.run, self.groups, self.sessions, self.secrets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def home_from(env: Mapping[str, str]) -> Home:
    """The installation that these environment variables name (`MICROCLAW_HOME`, `MICROCLAW_CONFIG`, `XDG_*`)."""
    if root := env.get("MICROCLAW_HOME"):
        state = Path(root).expanduser().absolute()
        config = state / "config.toml"
    else:
        dirs = PlatformDirs("microclaw", appauthor=False)
        home = Path(env.get("HOME") or Path.home())
        state = Path(env["XDG_STATE_HOME"]) / "microclaw" if env.get("XDG_STATE_HOME") else dirs.user_state_path
        config = (Path(env.get("XDG_CONFIG_HOME") or home / ".config")) / "microclaw" / "config.toml"
    if chosen := env.get("MICROCLAW_CONFIG"):
        config = Path(chosen).expanduser().absolute()
    run = state / "run"
    if len(str(run)) > RUN_DIR_CHARS_MAX:
        name = hashlib.blake2b(str(state).encode(), digest_size=5).hexdigest()
        run = Path(f"/tmp/microclaw-{os.getuid()}") / name  # noqa: S108 - 0700, and ownership is checked at start
    return Home(
        config=config, data=state / "data", logs=state / "logs", run=run,
        groups=state / "groups", sessions=state / "sessions", secrets=state / "secrets",
    )
