"""What a group's agent reads at every turn, for the owner to see. The folders are agents' to write in: nothing there is
followed, and only names and sizes are looked at."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from microclaw.core.memory_files import CONVERSATIONS_FOLDER, DAYS_FOLDER, NAMES, PRIVATE_NAME, SHARED_FOLDER

#: Of one folder, entries that are looked at.
ENTRIES_MAX = 10_000


def memory_of(groups: Path, group: str, *, is_main: bool) -> tuple[list[tuple[str, int]], int]:
    """Name and bytes of each memory file that is there, and the number of pages of earlier conversations."""
    names = [f"{folder}/{name}" for folder in (SHARED_FOLDER, group) for name in NAMES]
    if is_main:
        names.append(f"{group}/{PRIVATE_NAME}")
        names += [f"{group}/{DAYS_FOLDER}/{name}" for name in sorted(_pages(groups / group / DAYS_FOLDER))[-2:]]
    sizes = ((name, _size(groups / name)) for name in names)
    found = [(name, size) for name, size in sizes if size is not None]
    return found, len(_pages(groups / group / CONVERSATIONS_FOLDER))


def _size(path: Path) -> int | None:
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _pages(folder: Path) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [
            entry.name for entry, _ in zip(entries, range(ENTRIES_MAX), strict=False)
            if entry.name.endswith(".md") and not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
        ]
