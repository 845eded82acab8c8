"""The probe measures every protection: where one is missing it says so, and the backend is not used."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from microclaw.sandbox import bubblewrap, choose, docker_engine, probe
from microclaw.sandbox.backend import EngineMissing
from microclaw.sandbox.bubblewrap import Bubblewrap

#: Beyond what the probe asks for, so that a limit is there and does not hold.
GENEROUS = {
    "memory_bytes": 8 * probe.LIMITS.memory_bytes, "pids": 500, "cpus": float(min(2, os.cpu_count() or 1)),
    "tmp_bytes": 64 << 20,
}  # fmt: skip
#: What is taken away below, as the probe calls it. Not the processors' share: a busy machine bounds it by itself.
TAKEN = {
    "user", "new privileges", "system calls", "read-only root", "environment", "tmp", "rlimits", "processes", "folders",
    "memory",
}


async def test_iso11_the_deep_probe_measures_every_protection(backend):
    found = await backend.probe(deep=True)
    assert found.usable, found.reason
    assert found.version
    assert set(found.measured) >= {
        "user", "capabilities", "new privileges", "system calls", "network", "read-only root", "environment", "tmp",
        "rlimits", "processes", "cpu", "folders", "door", "memory", "kill",
    }


async def test_ac47_iso11_limits_that_do_not_hold_are_measured_and_the_backend_refused(backend, monkeypatch):
    """An engine may take a setting and ignore it, with exit code 0."""
    wanted = set(TAKEN)
    if isinstance(backend, Bubblewrap):
        # It has no new privileges whatever it is asked.
        wanted = wanted - {"new privileges"} | {"network"}
        if not backend.has_groups:
            # The watchdog looks at what the run's own limits say.
            wanted -= {"memory"}
        without_walls_of_bubblewrap(monkeypatch)
    else:
        # What of the network a run sees is its daemon's, which in tests has none: see `test_network`.
        without_walls_of_an_engine(monkeypatch)
    found = await backend.probe(deep=True)
    assert not found.usable
    missing = {name for name in found.measured if f" {name} (" in found.reason}
    assert missing >= wanted, found.reason
    assert "use another backend" in found.reason
    assert "\n" not in found.reason


def without_walls_of_an_engine(monkeypatch) -> None:
    real = docker_engine.container_settings

    def settings(spec, *others):
        found = real(replace(spec, limits=replace(spec.limits, **GENEROUS)), *others)
        host = found["HostConfig"]
        found["User"] = "0:0"
        found["Env"] = [*found["Env"], "OF_THE_HOST=1"]
        host |= {"ReadonlyRootfs": False, "CapDrop": [], "SecurityOpt": ["seccomp=unconfined"]}
        host["Ulimits"] = [limit for limit in host["Ulimits"] if limit["Name"] not in ("core", "fsize")]
        for mount in host["Mounts"]:
            mount["ReadOnly"] = False
        return found

    monkeypatch.setattr(docker_engine, "container_settings", settings)


def without_walls_of_bubblewrap(monkeypatch) -> None:
    real_options, real_make = bubblewrap.root_options, bubblewrap.cgroups.make

    def options(spec, *others):
        spec = replace(
            spec, limits=replace(spec.limits, **GENEROUS), mounts=[replace(one, writable=True) for one in spec.mounts]
        )
        said = "\0".join(real_options(spec, *others))
        for wall, gap in {
            "--unshare-all": "--unshare-pid\0--unshare-uts", "--clearenv": "--setenv\0OF_THE_HOST\x001",
            "--remount-ro\0/\0": "", f"--uid\0{bubblewrap.inside.UID}": "--uid\x000",
        }.items():
            assert wall in said
            said = said.replace(wall, gap)
        return said.split("\0")

    def make(trees, installation, worker_id, limits):
        return real_make(trees, installation, worker_id, replace(limits, **GENEROUS))

    # Lets everything through.
    monkeypatch.setattr(bubblewrap.seccomp, "bpf_for_host", lambda: bytes.fromhex("060000000000ff7f"))
    monkeypatch.setattr(bubblewrap, "root_options", options)
    monkeypatch.setattr(bubblewrap, "bound", lambda *_args, **_names: None)
    monkeypatch.setattr(bubblewrap.cgroups, "make", make)


async def test_ac47_iso11_what_does_not_hold_is_not_chosen(backend, monkeypatch):
    """Not by the name in the configuration either."""

    async def broken(deep: bool = False) -> probe.ProbeResult:
        return probe.ProbeResult(backend.name, False, "does not hold here: memory; use another backend")

    monkeypatch.setattr(backend, "probe", broken)
    for auto in (True, False):
        with pytest.raises(EngineMissing, match="memory"):
            await choose.first_usable([backend], auto=auto)
