"""The command lines of Apple's `container` (1.1.0 and newer). Pure."""

from __future__ import annotations

import math
import re

from microclaw.sandbox import inside
from microclaw.sandbox.backend import RunSpec
from microclaw.sandbox.docker_spec import LABEL, WORKER_LABEL, container_name
from microclaw.sandbox.rlimits import FILE_BYTES_MAX
from microclaw.sandbox.spec import DOOR

#: Before it, `--network none` and sockets in `-v` do not work.
VERSION_MIN = (1, 1, 0)
SOCKET = "egress.sock"

ABOUT = ["--version"]
STATUS = ["system", "status"]
START = ["system", "start"]
LIST = ["list", "--all", "--format", "json"]


def version_of(said: str) -> tuple[int, int, int] | None:
    """The version in what `container --version` says."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def run(spec: RunSpec, image: str, uid: int, gid: int) -> list[str]:
    """Run it in the foreground, with our pipes as its channels."""
    limits = spec.limits
    argv = [
        "run", "--interactive", "--rm", "--name", container_name(spec), "--progress", "none",
        # Left out, a container has a network of the machine.
        "--network", "none", "--no-dns", "--read-only", "--cap-drop", "ALL", "--init",
        # A virtual machine has whole processors and whole MiB.
        "--cpus", str(max(1, math.ceil(limits.cpus))), "--memory", f"{math.ceil(limits.memory_bytes / (1 << 20))}M",
        "--tmpfs", "/tmp",  # noqa: S108 - inside; it lies in the machine's memory, which is bounded
        "--uid", str(uid), "--gid", str(gid), "--workdir", spec.workdir,
        "--label", f"{LABEL}={spec.installation}", "--label", f"{WORKER_LABEL}={spec.worker_id}",
    ]  # fmt: skip
    for name, value in (
        ("nofile", limits.open_files), ("nproc", limits.pids), ("core", 0), ("fsize", FILE_BYTES_MAX)
    ):  # fmt: skip
        argv += ["--ulimit", f"{name}={value}:{value}"]
    for name, text in {"PATH": inside.PATH, "HOME": inside.HOME, **spec.env}.items():
        argv += ["--env", f"{name}={text}"]
    for mount in spec.mounts:
        readonly = "" if mount.writable else ",readonly"
        argv += ["--mount", f"type=bind,source={mount.source},target={mount.target}{readonly}"]
    if spec.door:
        # One by one: a folder with sockets in it can't be shared with the virtual machine.
        argv += ["--volume", f"{spec.door / SOCKET}:{DOOR}/{SOCKET}"]
    return [*argv, "--entrypoint", spec.argv[0], image, *spec.argv[1:]]


def kill(name: str) -> list[str]:
    return ["kill", name]


def delete(name: str) -> list[str]:
    return ["delete", "--force", name]


def has_image(image: str) -> list[str]:
    return ["image", "inspect", image]


def pull(image: str) -> list[str]:
    return ["image", "pull", "--progress", "none", image]


def build(image: str, base: str, folder: str) -> list[str]:
    return ["build", "--progress", "plain", "--tag", image, "--build-arg", f"BASE={base}", folder]
