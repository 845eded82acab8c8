"""What no run may have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.sandbox.backend import Limits, Mount, RunSpec, SpecRefused
from microclaw.sandbox.spec import BOUNDS, admit, check_spec

GOOD = RunSpec(
    worker_id="main-1", installation="a1b2", argv=["python3", "-c", "pass"], env={"LANG": "C.UTF-8"},
    mounts=[Mount(Path("/home/me/.local/state/microclaw/groups/main"), "/workspace/group", writable=True),
            Mount(Path("/home/me/project"), "/workspace/project")],
    door=Path("/tmp/microclaw-1000/ab/egress/main-1"),
)  # fmt: skip


def test_an_ordinary_one_passes():
    check_spec(GOOD)


@pytest.mark.parametrize("field", [
    {"worker_id": ""}, {"worker_id": "Main"}, {"worker_id": "a" * 41}, {"worker_id": "a/b"}, {"worker_id": "-a"},
    {"worker_id": "a\n"}, {"installation": ""}, {"installation": "../x"}, {"installation": "a b"},
    {"argv": []}, {"argv": [""]}, {"argv": "ls"}, {"argv": ["a\0b"]}, {"argv": ["x" * 200_000]},
    {"env": {"": "x"}}, {"env": {"A=B": "x"}}, {"env": {"1A": "x"}}, {"env": {"PATH": "/x"}}, {"env": {"HOME": "/x"}},
    {"env": {"A": "x\0"}}, {"env": {f"A{n}": "" for n in range(65)}}, {"env": {"A": "x" * 100_000}},
    {"workdir": "relative"}, {"workdir": "/etc"}, {"workdir": "/workspace/other"}, {"workdir": "/workspace/../etc"},
    {"door": Path("/")}, {"door": Path("/run")}, {"door": Path("/proc/1/root")}, {"door": Path("relative")},
    {"limits": Limits(memory_bytes=0)}, {"limits": Limits(pids=0)}, {"limits": Limits(cpus=0)},
    {"limits": Limits(cpus=float("nan"))}, {"limits": Limits(pids=10**9)}, {"limits": Limits(tmp_bytes=-1)},
    {"limits": Limits(output_bytes=1 << 40)}, {"limits": Limits(open_files=True)},
])  # fmt: skip
def test_ac42_refused_fields(field):
    with pytest.raises(SpecRefused) as refused:
        check_spec(replace(GOOD, **field))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", [
    "/", "/proc", "/proc/self", "/sys", "/dev", "/dev/sda", "/etc", "/etc/shadow", "/boot", "/run", "/var", "/var/run",
    "/run/docker.sock", "/var/run/docker.sock", "/var/lib/docker/volumes", "/home/me/.ssh", "/home/me/.ssh/id_ed25519",
    "/home/me/.aws", "/home/me/.docker/run", "/root/.ssh", "/root", "relative", "/a/../b", "/a/./b", "//a", "/a/",
    "/a//b", "/a\nb", "/home/me/.SSH", "/private/etc/hosts", "/private", "/home/me/.password-store",
])  # fmt: skip
def test_ac42_refused_sources(source):
    class Raw:
        """A path that was not tidied by pathlib."""

        def __str__(self) -> str:
            return source

    with pytest.raises(SpecRefused):
        check_spec(replace(GOOD, mounts=[Mount(Raw(), "/workspace/group")], workdir="/workspace"))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [
    "/", "/workspace", "/etc", "/usr/bin", "/workspace/../etc", "/workspace/a/", "workspace/a", "/run/egress", "/tmp",
    "/opt/microclaw/lib", "/workspace//a", "/proc",
])  # fmt: skip
def test_ac42_refused_targets(target):
    with pytest.raises(SpecRefused):
        check_spec(replace(GOOD, mounts=[Mount(Path("/home/me/x"), target)], workdir="/workspace"))


@pytest.mark.parametrize("targets", [
    ("/workspace/a", "/workspace/a"), ("/workspace/a", "/workspace/a/b"), ("/workspace/a/b", "/workspace/a"),
])  # fmt: skip
def test_mounts_do_not_meet(targets):
    mounts = [Mount(Path("/home/me/x"), target) for target in targets]
    with pytest.raises(SpecRefused, match="meets"):
        check_spec(replace(GOOD, mounts=mounts, workdir="/workspace"))


def test_too_many_mounts():
    mounts = [Mount(Path("/home/me/x"), f"/workspace/{n}") for n in range(33)]
    with pytest.raises(SpecRefused, match="33 mounts"):
        check_spec(replace(GOOD, mounts=mounts, workdir="/workspace"))


@pytest.mark.parametrize("source", ["/state/secrets", "/state/secrets/keys.db", "/state", "/"])
def test_ac43_the_installations_own_folders_are_closed(source):
    with pytest.raises(SpecRefused):
        check_spec(replace(GOOD, mounts=[Mount(Path(source), "/workspace/x")], workdir="/workspace"),
                   closed=[Path("/state/secrets")])  # fmt: skip


def test_beside_a_closed_folder_is_fine():
    mounts = [Mount(Path("/state/groups/main"), "/workspace/x")]
    check_spec(replace(GOOD, mounts=mounts, workdir="/workspace"), closed=[Path("/state/secrets")])


def test_the_door_may_lie_among_the_closed_sockets():
    check_spec(replace(GOOD, door=Path("/state/run/egress/w")), closed=[Path("/state/run")])


@given(st.sampled_from(sorted(BOUNDS)), st.floats(allow_nan=True) | st.integers())
def test_limits_outside_their_bounds_are_refused(name, value):
    least, most = BOUNDS[name]
    spec = replace(GOOD, limits=replace(Limits(), **{name: value}))
    if least <= value <= most:
        check_spec(spec)
    else:
        with pytest.raises(SpecRefused):
            check_spec(spec)


@given(st.text())
def test_any_worker_id_is_plain_or_refused(text):
    try:
        check_spec(replace(GOOD, worker_id=text))
    except SpecRefused:
        return
    assert text.isascii()
    assert text.replace("-", "").isalnum()
    assert text == text.lower()
    assert len(text) <= 40


def test_admit_looks_where_links_lead(tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "group").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "secrets")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    closed = [tmp_path / "secrets"]

    def with_source(name: str) -> RunSpec:
        mounts = [Mount(tmp_path / name, "/workspace/group", writable=True)]
        return RunSpec(worker_id="a", installation="b", argv=["true"], mounts=mounts)

    assert admit(with_source("group"), closed).mounts[0].source == (tmp_path / "group").resolve()
    for name in ("way", "missing", "loop"):
        with pytest.raises(SpecRefused):
            admit(with_source(name), closed)
