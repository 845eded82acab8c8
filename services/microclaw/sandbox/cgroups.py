"""Control groups, where this process may make some: memory, processes and processors of a whole sandbox.

Version 1 (one tree a controller) and version 2 (one tree), found by writing, not by guessing. A sandbox's
group is `…/microclaw-<installation>/<worker id>`, so that what an earlier life left is found by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microclaw.sandbox.backend import Limits, SandboxError

CONTROLLERS = ("memory", "pids", "cpu")
#: Length of a CPU accounting period.
PERIOD_US = 100_000
#: How long the kernel may take to bury the processes of a killed group.
EMPTY_WAIT_S = 10.0
EMPTY_POLL_S = 0.005
#: How often the making of a group is tried when its parent disappears meanwhile.
FOLDER_TRIES = 5


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of a cgroup file system below which we may make groups."""

    path: Path
    controllers: tuple[str, ...]
    version: int


class Group:
    """The control groups of one sandbox (one folder a tree)."""

    def __init__(self, folders: Sequence[tuple[Tree, Path]]) -> None:
        self._folders = folders

    def add(self, pid: int) -> None:
        """:raises OSError: the process is gone."""
        for _, folder in self._folders:
            _write(folder / "cgroup.procs", str(pid))

    def oom_kills(self) -> int:
        """Processes that the kernel killed because the group's memory was used up."""
        for tree, folder in self._folders:
            if "memory" in tree.controllers:
                name = "memory.events" if tree.version == 2 else "memory.oom_control"
                with contextlib.suppress(OSError):
                    return parse_counts((folder / name).read_text()).get("oom_kill", 0)
        return 0

    def pids(self) -> set[int]:
        found: set[int] = set()
        for _, folder in self._folders:
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found

    async def clear(self) -> None:
        """Kill what is in it, wait until it is empty and remove it.

        :raises SandboxError: something did not die in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + EMPTY_WAIT_S
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if loop.time() > deadline:
                raise SandboxError(f"processes {sorted(pids)} do not die; look at them with ps and restart the machine")
            await asyncio.sleep(EMPTY_POLL_S)
        for _, folder in self._folders:
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    # The last process is buried a moment after it left the list.
                    if loop.time() > deadline:
                        raise SandboxError(f"{folder} can't be removed: {error.strerror}; do it by rmdir") from error
                    await asyncio.sleep(EMPTY_POLL_S)
                    continue
                break
            with contextlib.suppress(OSError):
                # The last one of the installation; it stays while there are others.
                folder.parent.rmdir()


def memberships() -> str:
    """Which groups this process is in; "" where there are none."""
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:
        return ""


def trees(memberships: str, root: Path = Path("/sys/fs/cgroup")) -> tuple[Tree, ...]:
    """Where groups with all of `CONTROLLERS` can be made; () where they can't.

    :param memberships: what /proc/self/cgroup says.
    """
    v1: dict[str, Tree] = {}
    v2: Tree | None = None
    for line in memberships.splitlines():
        _, names, own = line.split(":", 2)
        if not names:
            v2 = _v2_tree(root, own)
        for name in names.split(","):
            if name in CONTROLLERS and name not in v1 and (path := _v1_path(root / name, own)):
                v1[name] = Tree(path, (name,), 1)
    if v2:
        return (v2,)
    if len(v1) == len(CONTROLLERS):
        return tuple(v1[name] for name in CONTROLLERS)
    return ()


def make(places: Sequence[Tree], installation: str, worker_id: str, limits: Limits) -> Group:
    """A group with these limits.

    :raises SandboxError: it can't be made or a limit can't be set; nothing is left behind.
    """
    made: list[tuple[Tree, Path]] = []
    try:
        for tree in places:
            folder = _folder(tree, installation, worker_id)
            made.append((tree, folder))
            for name, value in _settings(tree, limits):
                _write(folder / name, value)
            _no_swap(tree, folder, limits)
    except OSError as error:
        for _, folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise SandboxError(f"control group for {worker_id} failed: {error.strerror} ({error.filename})") from error
    return Group(made)


def leftovers(places: Sequence[Tree], installation: str) -> dict[str, Group]:
    """Groups of this installation that exist, by worker id."""
    found: dict[str, list[tuple[Tree, Path]]] = {}
    for tree in places:
        ours = tree.path / f"microclaw-{installation}"
        if ours.is_dir():
            for folder in ours.iterdir():
                if folder.is_dir():
                    found.setdefault(folder.name, []).append((tree, folder))
    return {worker_id: Group(folders) for worker_id, folders in found.items()}


def parse_counts(text: str) -> dict[str, int]:
    """`name number` lines as the kernel writes them."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _folder(tree: Tree, installation: str, worker_id: str) -> Path:
    ours = tree.path / f"microclaw-{installation}"
    for _ in range(FOLDER_TRIES):
        try:
            ours.mkdir(exist_ok=True)
            if tree.version == 2:
                _write(ours / "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))
            (ours / worker_id).mkdir()
        except FileNotFoundError:
            # Another process (a probe) has just removed the folder after the end of its last run.
            continue
        return ours / worker_id
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(ours))


def _settings(tree: Tree, limits: Limits) -> list[tuple[str, str]]:
    quota = max(1000, int(limits.cpus * PERIOD_US))
    if tree.version == 2:
        return [
            ("memory.max", str(limits.memory_bytes)),
            ("pids.max", str(limits.pids)),
            ("cpu.max", f"{quota} {PERIOD_US}"),
        ]
    return {
        "memory": [("memory.limit_in_bytes", str(limits.memory_bytes))],
        "pids": [("pids.max", str(limits.pids))],
        "cpu": [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota))],
    }[tree.controllers[0]]


def _no_swap(tree: Tree, folder: Path, limits: Limits) -> None:
    """Without this a machine with swap would let a run have as much again. The files are absent where swap
    is."""
    if "memory" not in tree.controllers:
        return
    name, value = ("memory.swap.max", "0") if tree.version == 2 else (
        "memory.memsw.limit_in_bytes", str(limits.memory_bytes))
    if (folder / name).exists():
        _write(folder / name, value)


def _v1_path(mount: Path, own: str) -> Path | None:
    # In a container the path of our own group may not be visible: the tree's top is ours then.
    for path in (mount / own.strip("/"), mount):
        if path.is_dir() and os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
            return path
    return None


def _v2_tree(root: Path, own: str) -> Tree | None:
    """The nearest group above us that lets us make groups beside our own (a group with processes in it can't
    hold limited ones: "no internal processes")."""
    mount = root if (root / "cgroup.controllers").exists() else root / "unified"
    path = mount / own.strip("/")
    while mount in (path, *path.parents):
        with contextlib.suppress(OSError):
            given = (path / "cgroup.subtree_control").read_text().split()
            writable = os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK)
            if writable and set(CONTROLLERS) <= set(given):
                return Tree(path, CONTROLLERS, 2)
        path = path.parent
    return None


def _write(path: Path, value: str) -> None:
    with path.open("w") as file:
        file.write(value)
