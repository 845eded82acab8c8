"""What is known of engines, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from microclaw.sandbox import apple_command, namespaces
from microclaw.sandbox.backend import EngineMissing, Limits, RunSpec
from microclaw.sandbox.docker_spec import container_settings
from microclaw.sandbox.engine_quirks import DOCKER, PODMAN, quirks_of
from microclaw.sandbox.engine_sockets import sockets


def test_podman_is_known_by_its_answer():
    assert quirks_of({"Components": [{"Name": "Podman Engine"}]}) is PODMAN
    assert quirks_of({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]}) is DOCKER
    assert quirks_of({}) is DOCKER


def test_the_environment_names_the_engine():
    assert sockets("docker", {"DOCKER_HOST": "unix:///x/docker.sock"}) == [Path("/x/docker.sock")]
    assert Path("/var/run/docker.sock") in sockets("docker", {"HOME": "/home/me"})
    assert sockets("podman", {"XDG_RUNTIME_DIR": "/run/user/7"})[0] == Path("/run/user/7/podman/podman.sock")


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "ssh://me@there", "npipe:////./pipe/docker"])
def test_an_engine_elsewhere_is_refused(host):
    with pytest.raises(EngineMissing, match="not on this machine"):
        sockets("docker", {"DOCKER_HOST": host})


def test_ac42_a_container_has_no_more_than_this():
    spec = RunSpec(worker_id="w", installation="i", argv=["a", "b"])
    settings = container_settings(spec, "image", "7:7", DOCKER, "{profile}")
    host = settings["HostConfig"]
    assert settings["NetworkDisabled"] is True
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", True, False)
    assert host["CapDrop"] == ["ALL"]
    assert "CapAdd" not in host
    assert "Binds" not in host
    assert "Devices" not in host
    assert "no-new-privileges" in host["SecurityOpt"]
    assert any(option == "seccomp={profile}" for option in host["SecurityOpt"])
    assert host["Memory"] == host["MemorySwap"] == Limits().memory_bytes
    assert host["LogConfig"]["Type"] == "none"
    assert "noexec" in host["Tmpfs"]["/tmp"]
    assert not {"PidMode", "UsernsMode", "UTSMode", "CgroupnsMode", "ExtraHosts", "Dns"} & set(host)
    assert settings["User"] == "7:7"


def test_podman_has_no_first_process_of_its_own():
    spec = RunSpec(worker_id="w", installation="i", argv=["a"])
    assert container_settings(spec, "image", "7:7", PODMAN, "{}")["HostConfig"]["Init"] is False


@pytest.mark.parametrize(("said", "version"), [
    ("container CLI version 1.1.0 (build: release, commit: 1234567)", (1, 1, 0)),
    ("container CLI version 0.10.0", (0, 10, 0)),
    ("command not found", None),
])  # fmt: skip
def test_apples_version(said, version):
    assert apple_command.version_of(said) == version
    assert (1, 2, 1) > apple_command.VERSION_MIN > (0, 10, 0)


@pytest.mark.parametrize(("settings", "remedy"), [
    ({namespaces.APPARMOR: "1"}, "apparmor_restrict_unprivileged_userns=0"),
    ({namespaces.DEBIAN: "0"}, "unprivileged_userns_clone=1"),
    ({namespaces.COUNT: "0"}, "max_user_namespaces=65536"),
    ({namespaces.APPARMOR: "0", namespaces.COUNT: "100"}, "container"),
])  # fmt: skip
def test_ac47_why_there_are_no_namespaces(settings, remedy):
    said = "bubblewrap did not start: bwrap: setting up uid map: Permission denied"
    text = namespaces.explain(said, settings, Path("/x/bwrap"))
    assert remedy in text
    assert "\n" not in text


def test_other_troubles_are_told_as_they_are():
    said = "bubblewrap did not start: bwrap: Can't find source path /x"
    assert namespaces.explain(said, {namespaces.APPARMOR: "1"}, Path("/x/bwrap")) == said
