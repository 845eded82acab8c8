"""Files below a folder that agents write in: every step of the way is opened by itself, and no link is followed, so
that nobody can lead the host (or the agent's own house-keeping) out of it, not even while it looks."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath


def write_beneath(root: Path, folder: str, name: str, raw: bytes) -> None:
    """Put a file into a folder right below `root`, in one move; the folder is made if it is missing.

    Raises OSError: the folder is none, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        top = _folder(str(root), None, stack)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=top)
        at = _folder(folder, top, stack)
        fresh = f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=at)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(handle)
        os.replace(fresh, name, src_dir_fd=at, dst_dir_fd=at)


def read_beneath(root: Path, name: str, bytes_max: int) -> bytes:
    """The first `bytes_max` bytes of a regular file below `root`; `name` is relative. Never blocks on a pipe.

    Raises OSError: it is not there, or the way leads through a link. Raises ValueError: the name leads out.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in the folder")
    with contextlib.ExitStack() as stack:
        at = _folder(str(root), None, stack)
        for part in parts[:-1]:
            at = _folder(part, at, stack)
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{name} is not a regular file")
            return file.read(bytes_max)


def _folder(name: str, at: int | None, stack: contextlib.ExitStack) -> int:
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    stack.callback(os.close, handle)
    return handle
