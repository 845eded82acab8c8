"""Writing below a folder that agents write in: every step of the way is opened by itself, and no link is followed, so
that nobody can lead the host (or the agent's own house-keeping) out of it, not even while it looks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_beneath(root: Path, folder: str, name: str, raw: bytes) -> None:
    """Put a file into a folder right below `root`, in one move; the folder is made if it is missing.

    Both belong to whom `root` belongs: the host may be root, which a run inside is not.
    Raises OSError: the folder is none, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        top = _folder(str(root), None, stack)
        owner = os.fstat(top)
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
            if os.geteuid() == 0:
                os.fchown(handle, owner.st_uid, owner.st_gid)
                os.fchown(at, owner.st_uid, owner.st_gid)
            os.fsync(handle)
        os.replace(fresh, name, src_dir_fd=at, dst_dir_fd=at)


def _folder(name: str, at: int | None, stack: contextlib.ExitStack) -> int:
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    stack.callback(os.close, handle)
    return handle
