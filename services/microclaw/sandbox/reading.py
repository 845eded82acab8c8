"""Reading files that a sandbox could write. What lies there may be a trap: a link to a secret of the host, a pipe that
never answers, a file of many gigabytes; and it may change while we look."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from pathlib import Path, PurePosixPath

from microclaw.sandbox.backend import SandboxError

#: `struct open_how`: no way out of the folder, no link of any kind on the way.
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_SYS_OPENAT2 = 437

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class FileRefused(SandboxError):
    """A file of a sandbox is not one that may be read."""

    exit_code = 4


def read_file(folder: Path, name: str, bytes_max: int) -> bytes:
    """The content of the file `name` (relative, `/` between parts) in `folder`.

    :raises FileRefused: it is no ordinary file beneath the folder, or larger than `bytes_max`.
    :raises FileNotFoundError: it is not there.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FileRefused(f"{name!r} is not a path inside the folder; use one without '/' in front and '..'")
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle = _open_beneath(top, path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENXIO, errno.EACCES, errno.EAGAIN):
            raise FileRefused(f"{name!r} leads somewhere else or can't be opened ({error.strerror})") from error
        raise
    finally:
        os.close(top)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise FileRefused(f"{name!r} is not an ordinary file")
        if facts.st_size > bytes_max:
            raise FileRefused(f"{name!r} has {facts.st_size} bytes, more than {bytes_max}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            # It may have grown since: one byte more than allowed tells.
            data = file.read(bytes_max + 1)
    finally:
        os.close(handle)
    if len(data) > bytes_max:
        raise FileRefused(f"{name!r} grew to more than {bytes_max} bytes while it was read")
    return data


def _open_beneath(top: int, path: PurePosixPath) -> int:
    if sys.platform == "linux":
        try:
            return _openat2(top, path)
        except OSError as error:
            # A kernel before 5.6, or a profile that hides the call.
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    return _step_by_step(top, path)


def _openat2(top: int, path: PurePosixPath) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    how = struct.pack("=QQQ", _READ, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    handle = libc.syscall(
        ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(top), ctypes.c_char_p(os.fsencode(str(path))),
        ctypes.c_char_p(how), ctypes.c_size_t(len(how)),
    )  # fmt: skip
    if handle < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int(handle)


def _step_by_step(top: int, path: PurePosixPath) -> int:
    """The same where openat2 is missing: each part is opened from the one before, and no part may be a link."""
    here = os.dup(top)
    try:
        for part in path.parts[:-1]:
            deeper = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = deeper
        return os.open(path.name, _READ, dir_fd=here)
    finally:
        os.close(here)
