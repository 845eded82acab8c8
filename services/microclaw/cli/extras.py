"""Installing what one connector needs into this environment, by its lock with hashes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from microclaw.cli.context import Context
from microclaw.core.errors import UnhealthyError

#: A module of each connector's extra that nothing else brings.
_MODULES = {"telegram": "aiogram", "discord": "hikari", "email": "imapclient", "imessage": "puremagic"}
#: Of the installer's complaint.
TAIL_LINES = 12
#: Of a line of progress.
SHOWN_CHARS_MAX = 76


def is_installed(channel: str) -> bool:
    """Whether the packages of a connector are here."""
    return all(importlib.util.find_spec(module) is not None for module in ("puremagic", _MODULES[channel]))


def lock_of(extra: str) -> Path:
    """The lock file of a connector, or of `prove`. Raises UnhealthyError: this is no checkout."""
    for folder in Path(__file__).resolve().parents:
        if (found := folder / "requirements" / f"{extra}.lock").is_file():
            return found
    raise UnhealthyError(f"requirements/{extra}.lock is not found: MicroClaw runs from a checkout of its repository")


def install(context: Context, channel: str) -> None:
    """Install them, showing each package as it comes.

    :raises UnhealthyError: it failed; says how to do it by hand.
    """
    lock = lock_of(channel)
    command = [
        sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off",
        "--require-hashes", "-r", str(lock),
    ]
    context.progress(f"installing what {channel} needs …")
    lines: list[str] = []
    with subprocess.Popen(
        command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(("Collecting ", "Installing ")):
                context.progress(f"  {line.split(' (')[0].strip()[:SHOWN_CHARS_MAX]}")
    if process.returncode != 0:
        raise UnhealthyError(
            f"installing {channel} failed: {''.join(lines[-TAIL_LINES:]).strip()}\n"
            f"by hand: pip install --require-hashes -r {lock}, then again with --no-install"
        )
    importlib.invalidate_caches()
