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
