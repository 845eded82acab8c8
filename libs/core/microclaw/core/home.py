"""Where an installation keeps its things.

`MICROCLAW_HOME` puts all in one folder, so that tests and second installations don't meet; without it
configuration and state go where XDG says. All folders are private to the user (0700).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microclaw.core.disk import check_writable, unwritable
from microclaw.core.errors import UnhealthyError

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

    @property
    def state(self) -> Path:
        """The folder that holds all but, perhaps, the configuration and `run`."""
        return self.data.parent

    @property
    def private(self) -> tuple[Path, ...]:
        """The folders that nobody else may even read."""
        return (self.data, self.logs, self.run, self.groups, self.sessions, self.secrets)

    def create(self) -> None:
        """Make the folders that are missing, private to the user, and check those that are there.

        :raises UnhealthyError: a folder belongs to somebody else, others may enter it, or it can't be written.
        """
        for folder in (self.config.parent, *self.private):
            try:
                _make(folder)
            except OSError as error:
                raise unwritable(error) from error
        if troubles := self.troubles():
            raise UnhealthyError(troubles[0])
        for folder in self.private:
            check_writable(folder)

    def troubles(self) -> list[str]:
        """What is wrong with the folders that exist: one line each, with the command that mends it."""
        found = []
        # Below /tmp others can plant links; the user's own folders may well be links to another disk.
        in_tmp = () if self.run.parent == self.state else (self.run, self.run.parent)
        for folder in (self.run.parent, self.state, *self.private):
            try:
                facts = folder.lstat() if folder in in_tmp else folder.stat()
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(facts.st_mode) and folder in self.private:
                found.append(f"{folder} is not a folder; move it away")
            elif facts.st_uid != os.getuid():
                found.append(f"{folder} belongs to another user; take it: sudo chown {os.getuid()} {folder}")
            elif folder in self.private and facts.st_mode & 0o077:
                found.append(f"{folder} is open to other users; close it: chmod 700 {folder}")
            elif facts.st_mode & 0o022:
                found.append(f"{folder} can be changed by other users; close it: chmod go-w {folder}")
        return found


def _make(folder: Path) -> None:
    """The folder and what is missing above it, all 0700. (`mkdir` would make the parents with the umask.)"""
    if not folder.exists():
        _make(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def home_from(env: Mapping[str, str]) -> Home:
    """The installation that the environment names (`MICROCLAW_HOME`, `MICROCLAW_CONFIG`, `XDG_*`)."""
    if root := env.get("MICROCLAW_HOME"):
        state = Path(root).expanduser().absolute()
        config = state / "config.toml"
    else:
        home = Path(env.get("HOME") or Path.home())
        state = Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "microclaw"
        config = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "microclaw" / "config.toml"
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
