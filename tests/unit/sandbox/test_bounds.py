"""Control groups, the watchdog's arithmetic, whose folders are whose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.sandbox import cgroups
from microclaw.sandbox.backend import Limits, SandboxError
from microclaw.sandbox.owner import hand_over
from microclaw.sandbox.watchdog import BURST_S, CpuBudget, descendants


def v2(root: Path, path: str, controllers: str = "cpu memory pids") -> Path:
    folder = root / path.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text(controllers)
    (folder / "cgroup.procs").write_text("")
    return folder


def test_version_2_the_nearest_group_that_can_hold_others(tmp_path):
    v2(tmp_path, "/", "cpuset cpu io memory pids")
    slice_ = v2(tmp_path, "/user.slice/app.slice")
    # Our own holds processes: nothing can be limited below it.
    (v2(tmp_path, "/user.slice/app.slice/me.service") / "cgroup.subtree_control").write_text("")
    found = cgroups.trees("0::/user.slice/app.slice/me.service\n", tmp_path)
    assert found == (cgroups.Tree(slice_, cgroups.CONTROLLERS, 2),)


def test_version_2_without_a_controller_is_not_enough(tmp_path):
    v2(tmp_path, "/", "cpu pids")
    assert cgroups.trees("0::/\n", tmp_path) == ()


def test_version_2_limits(tmp_path):
    v2(tmp_path, "/")
    places = cgroups.trees("0::/\n", tmp_path)
    ours = v2(tmp_path, "/microclaw-abc", "")
    limits = Limits(memory_bytes=1 << 26, pids=9, cpus=0.25)
    group = cgroups.make(places, "abc", "w1", limits)
    folder = ours / "w1"
    assert (ours / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (folder / "memory.max").read_text() == str(1 << 26)
    assert (folder / "pids.max").read_text() == "9"
    assert (folder / "cpu.max").read_text() == "25000 100000"
    group.add(4711)
    assert (folder / "cgroup.procs").read_text() == "4711"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\n")
    assert group.oom_kills() == 2
    assert list(cgroups.leftovers(places, "abc")) == ["w1"]
    assert cgroups.leftovers(places, "other") == {}


def test_version_1_needs_all_three(tmp_path):
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    said = "3:memory:/\n2:pids:/\n1:cpu,cpuacct:/\n0::/\n"
    assert cgroups.trees(said, tmp_path) == ()
    (tmp_path / "cpu").mkdir()
    assert [tree.path.name for tree in cgroups.trees(said, tmp_path)] == ["memory", "pids", "cpu"]


def test_a_group_that_can_not_be_made_leaves_nothing(tmp_path):
    place = cgroups.Tree(tmp_path, ("memory",), 1)
    (tmp_path / "microclaw-a" / "w").mkdir(parents=True)
    with pytest.raises(SandboxError, match="w failed"):
        cgroups.make((place,), "a", "w", Limits())


@given(st.floats(0.05, 8), st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 16)), max_size=50))
def test_a_budget_lets_no_more_through_than_its_share(cpus, looks):
    """Whatever it did between two looks, it rests until its debt is earned back."""
    budget = CpuBudget(cpus)
    elapsed = used = 0.0
    for seconds, threads in looks:
        spent = seconds * threads
        elapsed, used = elapsed + seconds, used + spent
        if budget.spend(seconds, spent):
            rest = -budget.credit_s / cpus
            elapsed += rest
            assert not budget.spend(rest, 0.0) or budget.credit_s == pytest.approx(0, abs=1e-6)
        assert used <= elapsed * cpus + BURST_S + 1e-6


def test_descendants_are_found_after_their_parent_ended():
    code = "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    print(os.getpid(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            assert set(descendants(process.pid)) == {process.pid, child}
        finally:
            process.communicate()
    assert descendants(process.pid) == [process.pid]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_is_handed_over_without_following_links(tmp_path):
    folder, outside = tmp_path / "group", tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    outside.mkdir()
    (folder / "deep" / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    hand_over(folder, 10001, 10001)
    for path in (folder, folder / "deep", folder / "deep" / "file", folder / "link"):
        assert path.lstat().st_uid == 10001
    assert outside.stat().st_uid == 0
    hand_over(folder, 0, 0)
    assert (folder / "deep" / "file").stat().st_uid == 0
