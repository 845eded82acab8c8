"""What no run may have. `admit` looks at a RunSpec before any backend does; nothing else makes one
acceptable."""

from __future__ import annotations

import dataclasses
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from microclaw.sandbox.backend import Limits, Mount, RunSpec, SpecRefused

#: Everything a run brings along is seen below this folder.
WORKSPACE = "/workspace"
#: Where the directory with `egress.sock` is seen inside.
DOOR = "/run/egress"

#: Host folders that are never shown to a run, nor anything that holds one of them, nor anything inside them.
CLOSED = (
    "/proc", "/sys", "/dev", "/boot", "/etc", "/root/.ssh", "/run/docker.sock", "/var/run/docker.sock",
    "/run/containerd", "/run/podman", "/run/dbus", "/run/systemd", "/var/lib/docker", "/var/lib/containers",
    # On a Mac, where `/etc` and `/var` are links.
    "/private/etc", "/private/var/run", "/private/var/db", "/private/var/root",
)  # fmt: skip
#: Names that mean credentials wherever they are, in capitals or not.
CLOSED_NAMES = frozenset({
    ".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker", "docker.sock", "podman.sock",
    ".password-store",
})  # fmt: skip

ARGV_BYTES_MAX = 128 << 10
ENV_ENTRIES_MAX = 64
ENV_BYTES_MAX = 64 << 10
MOUNTS_MAX = 32

#: field of Limits → smallest and largest value a run may ask.
BOUNDS: dict[str, tuple[float, float]] = {
    "memory_bytes": (16 << 20, 1 << 40),
    "pids": (4, 32768),
    "cpus": (0.05, 1024),
    "tmp_bytes": (64 << 10, 64 << 30),
    "output_bytes": (1 << 10, 4 << 30),
    "open_files": (16, 1 << 20),
}

_WORKER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_INSTALLATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: The backend sets these itself.
_ENV_TAKEN = frozenset({"PATH", "HOME", "HOSTNAME", "PWD"})


def admit(spec: RunSpec, closed: Collection[Path] = ()) -> RunSpec:
    """The spec with its mounts' real paths, once it has passed `check_spec` by name and by where the names
    lead.

    `closed` are this installation's own folders that no run may see (secrets, databases, sockets).
    :raises SpecRefused: one line why. Nothing was started or created.
    """
    check_spec(spec, closed)
    mounts = tuple(
        dataclasses.replace(mount, source=_existing(mount.source, f"mount {mount.target}")) for mount in spec.mounts
    )
    door = None if spec.door is None else _existing(spec.door, "the egress door")
    real = dataclasses.replace(spec, mounts=mounts, door=door)
    check_spec(real, [path.resolve() for path in closed])
    return real


def check_spec(spec: RunSpec, closed: Collection[Path] = ()) -> None:
    """Pure: looks at the values alone, not at the disk.

    :raises SpecRefused: one line that says which value and why.
    """
    if not _WORKER_ID.fullmatch(spec.worker_id):
        raise SpecRefused(f"worker id {spec.worker_id!r} refused: use a-z, 0-9 and '-', at most 40 characters")
    if not _INSTALLATION.fullmatch(spec.installation):
        raise SpecRefused(
            f"installation id {spec.installation!r} refused: use letters, digits, '.', '_', '-', at most 64"
        )
    _check_command(spec)
    _check_env(spec)
    check_mounts(spec.mounts, closed)
    if spec.door is not None:
        # The door lies among the sockets of the installation, which are closed: it alone is let through.
        _check_source(spec.door, "the egress door", ())
    _check_workdir(spec)
    _check_limits(spec.limits)


def _check_command(spec: RunSpec) -> None:
    if isinstance(spec.argv, str) or not spec.argv or not spec.argv[0]:
        raise SpecRefused("the command is empty; a run needs an argument list with a program first")
    if any("\0" in part for part in spec.argv):
        raise SpecRefused("the command holds a NUL character; remove it")
    if sum(len(part.encode()) + 1 for part in spec.argv) > ARGV_BYTES_MAX:
        raise SpecRefused(f"the command is longer than {ARGV_BYTES_MAX} bytes; hand long input over by standard input")


def _check_env(spec: RunSpec) -> None:
    if len(spec.env) > ENV_ENTRIES_MAX:
        raise SpecRefused(f"{len(spec.env)} environment variables are more than {ENV_ENTRIES_MAX}")
    for name, value in spec.env.items():
        if not _ENV_NAME.fullmatch(name):
            raise SpecRefused(f"environment name {name!r} refused: use letters, digits and '_'")
        if name in _ENV_TAKEN:
            raise SpecRefused(f"environment name {name} refused: the backend sets it")
        if "\0" in value:
            raise SpecRefused(f"the value of {name} holds a NUL character; remove it")
    if sum(len(name.encode()) + len(value.encode()) + 2 for name, value in spec.env.items()) > ENV_BYTES_MAX:
        raise SpecRefused(f"the environment is larger than {ENV_BYTES_MAX} bytes")


def check_mounts(mounts: Sequence[Mount], closed: Collection[Path] = ()) -> None:
    """Pure: whether a run may have these together. :raises SpecRefused: one line that says which not, and why."""
    if len(mounts) > MOUNTS_MAX:
        raise SpecRefused(f"{len(mounts)} mounts are more than {MOUNTS_MAX}")
    seen: list[PurePosixPath] = []
    for mount in mounts:
        _check_source(mount.source, f"mount {mount.target}", closed)
        target = _plain(mount.target, "mount target")
        if PurePosixPath(WORKSPACE) not in target.parents:
            raise SpecRefused(f"mount target {mount.target} refused: targets lie below {WORKSPACE}/")
        for other in seen:
            # A mount inside another would have to create its folder in the outer one, on the host.
            if target == other or target in other.parents or other in target.parents:
                raise SpecRefused(f"mount target {mount.target} refused: it meets {other}")
        seen.append(target)


def _check_source(source: Path, what: str, closed: Collection[Path]) -> None:
    text = str(source)
    path = _plain(text, f"source of {what}")
    if path == PurePosixPath("/"):
        raise SpecRefused(f"{what}: / refused: a run never sees the whole machine")
    for name in path.parts:
        if name.casefold() in CLOSED_NAMES:
            raise SpecRefused(f"{what}: {text} refused: {name} holds credentials or an engine's socket")
    for other in (*map(PurePosixPath, CLOSED), *map(PurePosixPath, closed)):
        if path == other or other in path.parents or path in other.parents:
            raise SpecRefused(f"{what}: {text} refused: no run may see {other}")


def _check_workdir(spec: RunSpec) -> None:
    path = _plain(spec.workdir, "working directory")
    roots = [PurePosixPath("/tmp"), *(PurePosixPath(mount.target) for mount in spec.mounts)]  # noqa: S108 - inside
    if path != PurePosixPath(WORKSPACE) and not any(path == root or root in path.parents for root in roots):
        raise SpecRefused(f"working directory {spec.workdir} refused: it must be {WORKSPACE}, /tmp or in a mount")


def _check_limits(limits: Limits) -> None:
    for name, (least, most) in BOUNDS.items():
        value = getattr(limits, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise SpecRefused(f"limit {name} = {value!r} refused: it must lie between {least:g} and {most:g}")


def _plain(text: str, what: str) -> PurePosixPath:
    """The path, if it says without detours what it means."""
    path = PurePosixPath(text)
    if not text.startswith("/") or str(path) != text or text.startswith("//") or ".." in path.parts:
        raise SpecRefused(f"{what} {text!r} refused: write an absolute path without '..', '.' or a double '/'")
    if any(character < " " or character == "\x7f" for character in text):
        raise SpecRefused(f"{what} {text!r} refused: it holds a control character")
    return path


def _existing(source: Path, what: str) -> Path:
    """Where `source` really is; it must be there, since engines would create it."""
    try:
        real = source.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise SpecRefused(f"{what}: {source} can't be mounted ({error.__class__.__name__}); create it first") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise SpecRefused(f"{what}: {source} refused: it is neither a folder nor a file")
    return real
