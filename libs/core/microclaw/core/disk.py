"""A disk that takes nothing: what to call it, and what to do about it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from microclaw.core.errors import UnhealthyError

_MINE = "it has to be the folder of the user who runs MicroClaw, and open to them: chown -R, chmod -R u+rwX"
#: What the system says → what to do next.
_REMEDIES = {
    errno.EROFS: "the disk is read-only, as it was mounted or by a fault of its own (`dmesg` tells): mend it, mount it "
                 "writable (mount -o remount,rw) and start MicroClaw again",
    errno.EIO: "the disk fails (`dmesg` tells): save what is on it, and restore it to another one",
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your share of the disk is full: make room",
    errno.EACCES: _MINE,
    errno.EPERM: _MINE,
    errno.ENOENT: "`microclaw up` makes it, and starts all that belongs together",
}
#: What SQLite says (SQLITE_FULL, _READONLY, _IOERR; `sqlite3` is slow to import) where the system said that.
_OF_SQLITE = {13: errno.ENOSPC, 8: errno.EROFS, 10: errno.EIO}
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_UNKNOWN = "look at the disk (`dmesg`, `df`)"


class Unwritable(UnhealthyError):
    """What MicroClaw keeps can't be written."""


def unwritable(error: OSError, what: str = "") -> Unwritable:
    """As one line.

    :param what: the file; "" = the one that the error names.
    """
    name = what or os.fsdecode(error.filename or "a file")
    remedy = _REMEDIES.get(error.errno or 0, _UNKNOWN)
    return Unwritable(f"{name} can't be written ({error.strerror or error}): {remedy}")


def check_writable(folder: Path) -> None:
    """Write there: a disk that has failed says that it is writable until somebody does.

    :raises Unwritable: it can't be done; why, and what to do.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise unwritable(error, str(folder)) from error


def disk_trouble(error: BaseException) -> str:
    """What is wrong with the disk and what to do, where that is why this failed; "" = it is not. What wraps an error
    (SQLAlchemy's, a `raise … from`) is looked through."""
    inner: BaseException | None = error
    while inner is not None:
        said = inner.errno if isinstance(inner, OSError) else None
        # The low byte is the primary code; the others say more of the same.
        code = said or _OF_SQLITE.get(getattr(inner, "sqlite_errorcode", 0) & 0xFF)
        if code in _OF_DISKS:
            return _REMEDIES[code]
        inner = getattr(inner, "orig", None) or inner.__cause__
    return ""
