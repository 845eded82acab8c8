"""On a disk that takes nothing every command says so, in one line and with the remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microclaw.core.home import home_from

SCRIPT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with its home read-only."""
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", home, sys.executable, "-m", "microclaw.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=os.environ | {"MICROCLAW_HOME": str(home)}, check=False,
    )
    if ended.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no read-only disk here: {ended.stderr.strip()}")
    return ended


@pytest.mark.parametrize("new", [True, False])
def test_ac34_up_starts_nothing(tmp_path: Path, new: bool) -> None:
    if not new:
        home_from({"MICROCLAW_HOME": str(tmp_path)}).create()
    ended = run(tmp_path, "up", "-d")
    assert ended.returncode == 5, ended
    (line,) = ended.stderr.splitlines()
    assert "read-only" in line.lower() and "remount,rw" in line


def test_ac34_the_doctor_finds_it(tmp_path: Path) -> None:
    home_from({"MICROCLAW_HOME": str(tmp_path)}).create()
    ended = run(tmp_path, "doctor", "--json")
    assert ended.returncode == 5, ended
    (disk,) = [check for check in json.loads(ended.stdout)["checks"] if check["what"] == "disk"]
    assert disk["state"] == "fail" and "Read-only" in disk["detail"] and "remount,rw" in disk["remedy"]
