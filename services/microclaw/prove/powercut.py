"""A file system for SQLite that loses power: what was written since the last sync is, sector by sector, there or not.

Writes go through to the file at once, as they would into the page cache, and what they replaced is remembered until
the next sync. `cut` puts some sectors back, as the seed decides, and may cut off what was appended. (A process that is
only killed leaves the page cache behind; nothing is put back then.) It needs `apsw`: the standard library can't be
given a file system.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import apsw

from microclaw.bus.journal_schema import Driver

#: What a disk writes at once or not at all, bytes.
SECTOR_BYTES = 512
_VFS = "powercut"


class Machine:
    """A machine that can lose its power."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._unsynced: dict[str, list[tuple[int, bytes]]] = {}
        self._sizes: dict[str, int] = {}
        self._vfs = _FileSystem(self)

    def driver(self) -> Driver:
        """How the journal reaches SQLite on this machine."""
        return Driver(
            connect=self._connect, constraint=apsw.ConstraintError, full=lambda error: isinstance(error, apsw.FullError)
        )

    def cut(self) -> None:
        """The power is gone. The process must end at once."""
        # The broker's second thread may be at work.
        for name, writes in list(self._unsynced.items()):
            file = os.open(name, os.O_RDWR)
            # The newest first, so that the oldest image is what remains.
            for offset, before in reversed(writes):
                for start in range(0, len(before), SECTOR_BYTES):
                    if self._chance.random() < 0.5:
                        os.pwrite(file, before[start:start + SECTOR_BYTES], offset + start)
            if name in self._sizes and self._chance.random() < 0.5:
                os.ftruncate(file, self._sizes[name])
            os.close(file)

    def changed(self, name: str, offset: int, length: int) -> None:
        """A piece of a file is about to be overwritten, cut off or appended."""
        with Path(name).open("rb", buffering=0) as file:
            self._sizes.setdefault(name, os.fstat(file.fileno()).st_size)
            self._unsynced.setdefault(name, []).append((offset, os.pread(file.fileno(), length, offset)))

    def synced(self, name: str) -> None:
        """It is on the disk."""
        self._unsynced.pop(name, None)
        self._sizes.pop(name, None)

    def _connect(self, path: Path) -> Any:
        return apsw.Connection(str(path), vfs=_VFS)


class _FileSystem(apsw.VFS):
    def __init__(self, machine: Machine) -> None:
        super().__init__(_VFS, "")
        self._machine = machine

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _File(self._machine, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, machine: Machine, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._machine = machine
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name or "")

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._name:
            self._machine.changed(self._name, offset, len(data))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        if self._name:
            now = self.xFileSize()
            self._machine.changed(self._name, size, max(0, now - size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._name:
            self._machine.synced(self._name)
