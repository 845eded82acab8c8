"""Whatever the configuration and a run say, the walls are the same: there is no word for a gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.errors import UsageError
from microclaw.core.settings import Sandbox, Settings, parse
from microclaw.sandbox import apple_command
from microclaw.sandbox.backend import Mount, RunSpec, SpecRefused
from microclaw.sandbox.bubblewrap_root import root_options
from microclaw.sandbox.docker_spec import container_settings
from microclaw.sandbox.engine_quirks import DOCKER, PODMAN
from microclaw.sandbox.inside import HostPython
from microclaw.sandbox.pool import limits_from
from microclaw.sandbox.seccomp import docker_json
from microclaw.sandbox.spec import check_spec

#: Texts that would mean something to an engine if one put them together carelessly.
HOSTILE = st.sampled_from([
    "--privileged", "--network=host", "host", "/", "../..", "-v", "seccomp=unconfined", "a,readonly=false", "a\nb", "",
    "$(id)", "--cap-add=ALL", "--userns=host", "/var/run/docker.sock", "/proc", "x:rw", "LD_PRELOAD", "0", "\0",
]) | st.text(max_size=20)  # fmt: skip

SANDBOXES = st.builds(
    Sandbox,
    memory_mb=st.integers(64, 1 << 20), cpus=st.floats(0.1, 1024), pids=st.integers(16, 32768),
    tmp_mb=st.integers(1, 65536), max_workers=st.integers(1, 1000),
)
SPECS = st.builds(
    lambda sandbox, argv, env, sources, worker_id, workdir: RunSpec(
        worker_id=worker_id, installation="a1", argv=argv, env=env, workdir=workdir,
        mounts=[Mount(Path("/home/me") / source, f"/workspace/m{number}", writable=bool(number % 2))
                for number, source in enumerate(sources)],
        door=Path("/home/me/run/door"), limits=limits_from(Settings(sandbox=sandbox)),
    ),
    SANDBOXES, st.lists(HOSTILE, max_size=4), st.dictionaries(HOSTILE, HOSTILE, max_size=3),
    st.lists(HOSTILE, max_size=3), HOSTILE | st.just("w-1"), HOSTILE | st.just("/workspace"),
)  # fmt: skip


def admitted(spec: RunSpec) -> bool:
    try:
        check_spec(spec)
    except SpecRefused:
        return False
    return True


@given(SPECS)
def test_ac42_every_container_that_is_admitted_has_the_same_walls(spec: RunSpec) -> None:
    if not admitted(spec):
        return
    for quirks in (DOCKER, PODMAN):
        made = container_settings(spec, "image", "10001:10001", quirks, docker_json())
        host: dict[str, Any] = made["HostConfig"]
        assert made["NetworkDisabled"] is True and host["NetworkMode"] == "none"
        assert host["Privileged"] is False and host["ReadonlyRootfs"] is True and host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges", f"seccomp={docker_json()}"]
        assert host["IpcMode"] == "private" and made["User"] == "10001:10001"
        assert host["PidsLimit"] > 0 and host["Memory"] == host["MemorySwap"] > 0 and host["NanoCpus"] > 0
        assert not set(host) & {
            "Binds", "CapAdd", "Devices", "DeviceRequests", "PidMode", "UsernsMode", "UTSMode", "CgroupnsMode",
            "VolumesFrom", "ExtraHosts", "Dns", "PublishAllPorts", "PortBindings", "Runtime", "Sysctls", "GroupAdd",
        }
        assert {mount["Type"] for mount in host["Mounts"]} <= {"bind"}
        assert "/" not in {mount["Source"] for mount in host["Mounts"]}
        json.dumps(made)


@given(SPECS)
def test_ac42_the_same_for_bubblewrap_and_apple(spec: RunSpec) -> None:
    if not admitted(spec):
        return
    python = HostPython("/usr/bin/python3", ())
    options = root_options(spec, python, {})
    assert options[:4] == ["--unshare-all", "--unshare-user", "--disable-userns", "--uid"]
    assert options[options.index("--cap-drop") + 1] == "ALL"
    brought = [(options[at + 1], options[at + 2]) for at, word in enumerate(options) if word == "--bind"]
    writable = [(str(mount.source), mount.target) for mount in spec.mounts if mount.writable]
    # What stands after `--setenv` is two texts of the run's own, never an option.
    assert [pair for pair in brought if pair in writable] == writable
    argv = apple_command.run(spec, "image", 10001, 10001)
    own = argv[: argv.index("--entrypoint")]
    assert own[own.index("--network") + 1] == "none" and "--read-only" in own
    assert own[own.index("--cap-drop") + 1] == "ALL" and own[own.index("--uid") + 1] == "10001"
    values = {argv[at + 1] for at, word in enumerate(own) if word in ("--env", "--mount", "--label", "--name")}
    assert not ({"--privileged", "--cap-add", "--publish", "--ssh", "--virtualization"} & set(own)) - values


@pytest.mark.parametrize("line", [
    "privileged = true", 'network = "host"', 'cap_add = ["ALL"]', 'seccomp = "unconfined"', 'user = "root"',
    'mounts = ["/:/host"]', 'devices = ["/dev/kvm"]', 'runtime = "x"', 'args = ["--privileged"]', "read_only = false",
    'backend = "none"', 'backend = "host"', 'image = "--privileged"', 'image = "-v/:/host"', "pids = 0",
    "memory_mb = 0", "pids = -1", 'env = {A = "b"}', "enabled = false",
])  # fmt: skip
def test_ac42_the_configuration_has_no_word_for_a_gap(line: str) -> None:
    with pytest.raises(UsageError):
        parse(f"[sandbox]\n{line}\n", {})
