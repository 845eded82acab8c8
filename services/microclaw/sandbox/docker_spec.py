"""A RunSpec as Docker's API wants it. Pure."""

from __future__ import annotations

from typing import Any

from microclaw.sandbox import inside
from microclaw.sandbox.backend import RunSpec
from microclaw.sandbox.engine_quirks import Quirks
from microclaw.sandbox.rlimits import FILE_BYTES_MAX
from microclaw.sandbox.spec import DOOR

#: On every container of ours; its value is the installation's id.
LABEL = "microclaw"
WORKER_LABEL = "microclaw.worker"
HOSTNAME = "microclaw"
SHM_BYTES = 16 << 20


def container_name(spec: RunSpec) -> str:
    """Unique in the engine."""
    return f"microclaw-{spec.installation}-{spec.worker_id}"


def container_settings(spec: RunSpec, image: str, user: str, quirks: Quirks, seccomp: str) -> dict[str, Any]:
    """The body of `POST /containers/create`.

    :param seccomp: the profile, or its file where the engine wants one.
    """
    return {
        "Image": image,
        # The image's own entry point, if it has one, does not come between.
        "Entrypoint": [spec.argv[0]],
        "Cmd": list(spec.argv[1:]),
        "Env": [f"{name}={value}" for name, value in environment(spec).items()],
        "User": user,
        "WorkingDir": spec.workdir,
        "Hostname": HOSTNAME,
        "Labels": {LABEL: spec.installation, WORKER_LABEL: spec.worker_id},
        "Tty": False,
        "OpenStdin": True,
        # Our end of the stream is the only one: with us gone the worker reads its end.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "HostConfig": _host_settings(spec, quirks, seccomp),
    }


def environment(spec: RunSpec) -> dict[str, str]:
    """All that is in the environment, besides HOSTNAME, which the engines add."""
    return {"PATH": inside.PATH, "HOME": inside.HOME, **spec.env}


def _host_settings(spec: RunSpec, quirks: Quirks, seccomp: str) -> dict[str, Any]:
    limits = spec.limits
    # `mounts`, never `binds`: a bind of a folder that is not there makes it, as root.
    mounts = [(str(mount.source), mount.target, not mount.writable) for mount in spec.mounts]
    if spec.door:
        mounts.append((str(spec.door), DOOR, True))
    ulimits = {
        "nofile": limits.open_files,
        # By user and not by container: the real bound is PidsLimit, this one is a net below it.
        "nproc": max(limits.pids, 4096),
        "core": 0,
        "fsize": FILE_BYTES_MAX,
        "memlock": 64 << 10,
    }
    return {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp}"],
        "IpcMode": "private",
        "PidsLimit": limits.pids,
        "Memory": limits.memory_bytes,
        # The same as the memory: no swap on top.
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(limits.cpus * 1_000_000_000),
        "ShmSize": SHM_BYTES,
        "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,mode=1777,size={limits.tmp_bytes}"},  # noqa: S108 - inside
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in ulimits.items()],
        "Mounts": [
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
            for source, target, read_only in mounts
        ],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "Init": quirks.has_init,
        "AutoRemove": False,
    }
