"""Room kept in reserve on the journal's disk: a file that is deleted when the disk is full.

SQLite needs room also to delete: acknowledgements, retention and checkpoints would fail together with the publishers
they make room for. Publishers wait until the ballast is back, which needs as much room again beside it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: Room in reserve: for all that a write-ahead log may hold (`journal.PREWARM_BYTES`) and something beside it.
BALLAST_BYTES = 24 << 20


class Ballast:
    """The file."""

    def __init__(self, path: Path, size_bytes: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def load(self) -> bool:
        """Have the room in reserve. False = there is not enough for it and as much again."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size == self._size_bytes:
                return True
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * self._size_bytes:
            return False
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, self._size_bytes)
            else:
                os.write(file, bytes(self._size_bytes))
        except OSError:
            # Somebody else was quicker.
            self.drop()
            return False
        finally:
            os.close(file)
        return True

    def drop(self) -> None:
        """Use the reserve."""
        self._path.unlink(missing_ok=True)
