"""The memory files on the disk, in folders that agents write in: nothing there is followed, not all of it is read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from microclaw.agent.beneath import write_beneath
from microclaw.core.memory_files import DAYS_FOLDER, KEPT_BYTES_MAX, SHARED_FOLDER, guarded, is_day
from microclaw.sandbox.reading import FileRefused, read_file

#: Days' notes of one folder that are looked at, the newest; earlier ones are told no more.
DAYS_MAX = 400

log = logging.getLogger("microclaw.sandbox")


def read_memory(groups: Path, folder: str, *, is_main: bool, known: Collection[str]) -> dict[str, bytes | None]:
    """Name → content of every file that is guarded, or was when it was `known`; None = there is none, or something
    that can't be memory (a link, a pipe, a folder, a file of more than `KEPT_BYTES_MAX`)."""
    names = {*guarded(is_shared=folder == SHARED_FOLDER, is_main=is_main), *known}
    if is_main and folder != SHARED_FOLDER:
        names |= {f"{DAYS_FOLDER}/{name}" for name in _days(groups / folder / DAYS_FOLDER)}
    return {name: _read(groups / folder, name) for name in sorted(names)}


def write_memory(groups: Path, folder: str, name: str, content: bytes | None) -> bool:
    """Have this there; None = nothing. False: something is in the way, which the log tells."""
    try:
        where, _, file = name.rpartition("/")
        root, below = (groups / folder, where) if where else (groups, folder)
        _make_way(groups / folder, where, file, content)
        if content is not None:
            write_beneath(root, below, file, content)
    except OSError as error:
        log.warning("a memory file can't be put right", extra={
            "group": folder, "file": name, "why": error.strerror or str(error),
        })
        return False
    return True


def _read(folder: Path, name: str) -> bytes | None:
    try:
        return read_file(folder, name, KEPT_BYTES_MAX)
    except (FileRefused, OSError):
        return None


def _days(folder: Path) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_day(entry.name))[-DAYS_MAX:]


def _make_way(folder: Path, where: str, file: str, content: bytes | None) -> None:
    """Take away what is there, if it may not stay: a folder is renamed, for it may hold anything."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if where:
            try:
                below = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            except FileNotFoundError:
                return
            os.close(at)
            at = below
        with suppress(FileNotFoundError):
            try:
                if content is None or not _is_file(file, at):
                    os.unlink(file, dir_fd=at)
            except (IsADirectoryError, PermissionError):
                os.rename(file, f".aside-{os.urandom(4).hex()}-{file}", src_dir_fd=at, dst_dir_fd=at)
    finally:
        os.close(at)


def _is_file(file: str, at: int) -> bool:
    return stat.S_ISREG(os.stat(file, dir_fd=at, follow_symlinks=False).st_mode)
