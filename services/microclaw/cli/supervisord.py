"""Starting supervisord: once per installation, with the environment that its configuration needs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from microclaw.bus.supervisor import Supervisor
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import MicroclawError, NotRunningError, UnhealthyError
from microclaw.core.home import Home

#: As `microclaw.bus.service` reads it, which is slow to import.
SUPERVISOR = "MICROCLAW_SUPERVISOR"
#: The descriptor of the lock in supervisord, which closes all from 5 on when it starts.
LOCK_FD = 3
#: A supervisord that was just told to stop may still hold the lock for so long.
LOCK_WAIT_S = 0.5
#: What supervisord itself prints when it runs in the background: its own complaints at the start.
OUTPUT = "up.log"


class AlreadyRunning(MicroclawError):
    """MicroClaw is running already."""


def configuration() -> Path:
    """deploy/supervisord.conf of this checkout. Raises UnhealthyError."""
    for folder in Path(__file__).resolve().parents:
        if (found := folder / "deploy" / "supervisord.conf").is_file():
            return found
    raise UnhealthyError(
        "deploy/supervisord.conf is not found: MicroClaw runs from a checkout of its repository (./microclaw)"
    )


def environment(home: Home, env: dict[str, str], channels: Collection[str] = ()) -> dict[str, str]:
    """What supervisord and the services need to know. `channels`: connectors that start with the rest."""
    return env | {
        f"MICROCLAW_AUTOSTART_{name.upper()}": str(name in channels).lower() for name in CONNECTORS
    } | {
        "MICROCLAW_STATE": str(home.state), "MICROCLAW_RUN": str(home.run), "MICROCLAW_LOGS": str(home.logs),
        "MICROCLAW_PYTHON": sys.executable, "MICROCLAW_CONFIG": str(home.config),
    }


def command() -> list[str]:
    """supervisord in the foreground, with our configuration."""
    return [sys.executable, "-P", "-m", "supervisor.supervisord", "-n", "-c", str(configuration())]


def become(lock: int, home: Home, env: dict[str, str], channels: Collection[str]) -> NoReturn:
    """Turn this process into supervisord. `lock` is what `hold_lock` gave."""
    os.dup2(lock, LOCK_FD)
    # By itself: dup2 onto the same number changes nothing.
    os.set_inheritable(LOCK_FD, True)
    own = environment(home, env, channels) | {SUPERVISOR: str(os.getpid())}
    os.execve(sys.executable, command(), own)  # noqa: S606 - no shell is wanted


def spawn(home: Home, env: dict[str, str], channels: Collection[str]) -> subprocess.Popen[bytes]:
    """Start supervisord in a session of its own, so that it outlives this terminal. Raises AlreadyRunning."""
    lock = hold_lock(home)
    try:
        with (home.logs / OUTPUT).open("wb") as output:
            return subprocess.Popen(
                # The shell puts the lock where supervisord leaves it open, and becomes supervisord.
                ["/bin/sh", "-c", f'lock=$1; shift; export {SUPERVISOR}=$$; exec "$@" {LOCK_FD}<&"$lock"', "sh",
                 str(lock), *command(), "-s"],
                env=environment(home, env, channels), pass_fds=(lock,), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
    finally:
        os.close(lock)


def is_held(home: Home) -> bool:
    """Whether a supervisord (or an `up` about to become one) holds this installation's lock."""
    try:
        lock = os.open(home.run / "up.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def hold_lock(home: Home) -> int:
    """Take the lock that says "this installation is up"; supervisord inherits and keeps it until it ends.

    The kernel frees it with its holder, however that ends, so it can't be stale as a pid file or socket can.

    :raises AlreadyRunning: somebody has it.
    """
    lock = os.open(home.run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return lock
        if time.monotonic() > until:
            os.close(lock)
            raise AlreadyRunning(_who(home))
        time.sleep(0.05)


def _who(home: Home) -> str:
    try:
        pid = f" (supervisord is process {Supervisor(home.supervisor_socket).pid()})"
    except (NotRunningError, UnhealthyError):
        pid = " or just starting or stopping"
    return f"MicroClaw is running already{pid}: see `microclaw status`, stop it with `microclaw down`"
