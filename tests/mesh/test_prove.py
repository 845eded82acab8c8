"""`microclaw prove` itself: it finds nothing wrong with a mesh that is well, and finds out one that is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Long runs elsewhere: MC_PROVE_ROUNDS=200.
ROUNDS = int(os.environ.get("MC_PROVE_ROUNDS", "8"))

#: A console that shows every tenth reply twice, or does not show it.
BROKEN = {
    "doubled": """
from microclaw.console.outbound import Outbound
whole, count = Outbound._deliver, [0]
def deliver(self, db, reply, cause):
    count[0] += 1
    if count[0] % 10 == 0:
        whole(self, db, reply, bytes(16 - len(str(count[0]))) + str(count[0]).encode())
    return whole(self, db, reply, cause)
Outbound._deliver = deliver
""",
    "lost": """
from microclaw.console.outbound import Outbound
whole, count = Outbound._deliver, [0]
def deliver(self, db, reply, cause):
    count[0] += 1
    if count[0] % 10 == 0:
        import msgspec
        return whole(self, db, msgspec.structs.replace(reply, text=""), cause)
    return whole(self, db, reply, cause)
Outbound._deliver = deliver
""",
}


@pytest.fixture
def owner() -> Iterator[Path]:
    """An installation whose data must not be touched."""
    home = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    (home / "config.toml").write_text('[assistant]\nname = "Zoe"\n')
    (home / "config.toml").chmod(0o600)
    yield home
    shutil.rmtree(home)


def prove(owner: Path, *arguments: str, **env: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MICROCLAW_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "microclaw.cli", "--json", "prove", *arguments],
        env=inherited | {"MICROCLAW_HOME": str(owner)} | env, capture_output=True, text=True,
    )
    print(done.stderr)
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_a_mesh_that_is_harmed_loses_doubles_and_reorders_nothing(owner: Path) -> None:
    done, report = prove(owner, "--rounds", str(ROUNDS), "--seed", "20261123")
    assert done.returncode == 0, report
    assert report["lost"] == report["doubled"] == report["reordered"] == report["strange"] == 0
    assert report["accepted"] == report["answered"] > ROUNDS
    assert report["rounds"] == ROUNDS
    assert sum(report["acts"].values()) == ROUNDS, report["not_done"]
    assert 0 < report["recovery_max_s"] < 60
    assert report["home"] is None, "nothing is left behind"
    assert [path.name for path in owner.iterdir()] == ["config.toml"], "the owner's home was not touched"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_mesh_that_is_broken_is_found_out(owner: Path, tmp_path: Path, fault: str) -> None:
    guard = "import sys\nif 'microclaw.console' in sys.orig_argv:\n"
    (tmp_path / "sitecustomize.py").write_text(guard + textwrap.indent(BROKEN[fault], "    "))
    done, report = prove(owner, "--rounds", "1", "--seed", "3", "--patience", "10", PYTHONPATH=str(tmp_path))
    shutil.rmtree(report["home"], ignore_errors=True)
    assert done.returncode == 1
    assert report[fault] > 0
