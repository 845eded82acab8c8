"""What the inside of a bubblewrap sandbox looks like, as bubblewrap's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from microclaw.sandbox import inside
from microclaw.sandbox.backend import RunSpec
from microclaw.sandbox.spec import DOOR, WORKSPACE

#: Folders that are part of /usr on today's systems and beside it on others.
BESIDE_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: Read-only from the host where they exist: what programs of /usr need to run, and nothing that says whose
#: host it is.
FROM_ETC = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
    "/etc/mime.types", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
)  # fmt: skip
#: What the kernel tells of itself and of the host's users there (the names of their keys); hidden where it exists.
#: The others of its kind, such as `kcore`, it closes itself to whoever has no capability.
HIDDEN_IN_PROC = ("keys", "timer_list", "latency_stats", "sched_debug")
#: Made up.
ETC = {
    "/etc/passwd": (
        f"agent:x:{inside.UID}:{inside.GID}:agent:{inside.HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    ),
    "/etc/group": f"agent:x:{inside.GID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
HOSTNAME = "microclaw"
#: Shared memory, beside /tmp the only other place that can be written.
SHM_BYTES = 16 << 20

_SHM, _TMP, _VAR_TMP = "/dev/shm", "/tmp", "/var/tmp"  # noqa: S108 - made anew inside each sandbox


def root_options(spec: RunSpec, python: inside.HostPython, files: Mapping[str, int]) -> list[str]:
    """The options without those that name descriptors of one start.

    :param files: path in /etc → descriptor that holds its text.
    """
    return [
        # --unshare-all takes the network away; a namespace has only its own loopback. --disable-userns needs
        # the user namespace to be asked for by name.
        "--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(inside.UID), "--gid", str(inside.GID),
        "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", HOSTNAME,
        *_environment(spec),
        *_system(),
        *_etc(files),
        *_places(spec),
        *_python(python),
        *_brought(spec),
        # The tree that holds it all: after this nothing but the mounts can be written.
        "--remount-ro", "/",
        "--chdir", spec.workdir,
    ]  # fmt: skip


def _environment(spec: RunSpec) -> list[str]:
    options = ["--clearenv"]
    for name, value in {"PATH": inside.PATH, "HOME": inside.HOME, **spec.env}.items():
        options += ["--setenv", name, value]
    return options


def _system() -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    for name in BESIDE_USR:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options


def _etc(files: Mapping[str, int]) -> list[str]:
    options: list[str] = []
    for path in FROM_ETC:
        options += ["--ro-bind-try", path, path]
    for path, fd in files.items():
        options += ["--perms", "0444", "--ro-bind-data", str(fd), path]
    return options


def _places(spec: RunSpec) -> list[str]:
    return [
        # Read-only: where our user is the host's root, /proc/sys would else be open to it.
        "--proc", "/proc", *_hidden(), "--remount-ro", "/proc",
        "--dev", "/dev", "--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", _SHM, "--remount-ro", "/dev",
        "--perms", "1777", "--size", str(spec.limits.tmp_bytes), "--tmpfs", _TMP,
        "--symlink", _TMP, _VAR_TMP, "--dir", "/run", "--dir", WORKSPACE,
    ]  # fmt: skip


def _hidden() -> list[str]:
    options: list[str] = []
    for path in (Path("/proc", name) for name in HIDDEN_IN_PROC):
        if path.exists():
            # Bound without the right to open devices, so it can't even be opened.
            options += ["--ro-bind", "/dev/null", str(path)]
    return options


def _python(python: inside.HostPython) -> list[str]:
    options: list[str] = []
    for source, target in python.folders:
        options += ["--ro-bind", str(source), target]
        # Where MicroClaw itself is installed among the packages, its other parts stay outside.
        if target == inside.SITE and (source / "microclaw").is_dir():
            options += ["--tmpfs", f"{target}/microclaw", "--remount-ro", f"{target}/microclaw"]
    return options


def _brought(spec: RunSpec) -> list[str]:
    options: list[str] = []
    for mount in spec.mounts:
        options += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    if spec.door:
        options += ["--ro-bind", str(spec.door), DOOR]
    return options
