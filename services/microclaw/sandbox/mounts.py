"""Which folders a group's worker sees, and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from microclaw.core.groups import is_folder
from microclaw.core.home import Home
from microclaw.sandbox.backend import Mount, SpecRefused

GROUP = "/workspace/group"
SESSION = "/workspace/session"
SHARED = "/workspace/global"
PROJECT = "/workspace/project"


def group_mounts(home: Home, group: str, *, is_main: bool, project: Sequence[Path]) -> list[Mount]:
    """The mounts of a group's worker. Its own two folders are made if they are missing.

    :param project: what main sees of MicroClaw itself.
    :raises SpecRefused: that is no group's name.
    """
    if not is_folder(group):
        raise SpecRefused(f"{group[:70]!r} is not a group's folder; register the chat under another name")
    mounts = []
    for parent, target in ((home.groups, GROUP), (home.sessions, SESSION)):
        folder = parent / group
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts.append(Mount(folder, target, writable=True))
    shared = home.groups / "global"
    if shared.is_dir():
        # What every group is told is the owner's to change, and so the main group's.
        mounts.append(Mount(shared, SHARED, writable=is_main))
    if is_main:
        mounts += [Mount(part, f"{PROJECT}/{part.name}") for part in project]
    return mounts
