"""A disk whose power can be cut, as an apsw VFS.

What was written since a file's last sync is at the disk's mercy: at the cut each 512-byte sector of each such write is
there or not, whatever was written before or after it; so is each change of length, and a file never synced may be
missing altogether. What was synced stays, byte for byte. A write within one sector is not torn, and bytes beside those
written are not touched (SQLite calls that "powersafe overwrite" and counts on it for the real disks of today too).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from microclaw.bus.journal_schema import Driver

SECTOR_BYTES = 512
_numbers = itertools.count()


class PowerCut(Exception):
    """The power is gone; everything after this is about the next start."""


@dataclass(slots=True)
class _Stored:
    """A file: as it is seen, as it is surely on disk, and what lies between."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray | None = None
    #: (offset, bytes), or (length, None) for a truncation, since the last sync.
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)


class Disk:
    """The files and their fate. `cut_after` counts writes and syncs; at zero the power goes."""

    def __init__(self, seed: int = 0) -> None:
        self.files: dict[str, _Stored] = {}
        self.random = random.Random(seed)
        self.cut_after: int | None = None
        self.dead = False
        self.abandoned = False
        #: What the next sync raises instead of syncing.
        self.sync_fails: Callable[[], Exception] | None = None
        #: What every write raises instead of writing.
        self.write_fails: Callable[[], Exception] | None = None
        self.vfs = _Vfs(self)

    def reached(self) -> bool:
        """Something reaches the disk; False = it does not any more. Raises PowerCut."""
        if self.abandoned:
            return False
        if self.dead:
            raise PowerCut
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                self.cut()
                raise PowerCut
        return True

    def cut(self) -> None:
        """Now. Until `power_on` nothing works."""
        self.dead = True
        self.cut_after = None

    def abandon(self) -> None:
        """From now until `power_on` what is written goes nowhere, silently: for closing what the cut left open."""
        self.cut()
        self.abandoned = True

    def power_on(self) -> None:
        """What is left of the files."""
        self.dead = self.abandoned = False
        left: dict[str, _Stored] = {}
        for name, file in self.files.items():
            rest = self._rest(file)
            if rest is not None:
                left[name] = _Stored(bytearray(rest), bytearray(rest))
        self.files = left

    def _rest(self, file: _Stored) -> bytearray | None:
        if file.durable is None and self.random.random() < 0.5:
            return None
        rest = bytearray(file.durable or b"")
        # Caches like to write all or nothing too: those are cases of their own.
        keep = self.random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for place, data in file.unsynced:
            if data is None:
                if self.random.random() < keep:
                    del rest[place:]
                continue
            start = 0
            while start < len(data):
                end = min(len(data), start + SECTOR_BYTES - (place + start) % SECTOR_BYTES)
                if self.random.random() < keep:
                    _put(rest, place + start, data[start:end])
                start = end
        return rest

    def driver(self) -> Driver:
        """For `Journal`."""
        return Driver(connect=self._connect, error=apsw.Error, constraint=apsw.ConstraintError,
                      full=lambda error: isinstance(error, apsw.FullError))

    def _connect(self, path: Path) -> apsw.Connection:
        path.touch()  # the journal looks whether it is there
        connection = apsw.Connection(str(path), vfs=self.vfs.name)
        # Without shared memory, which a VFS in Python has none of, WAL needs this.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        return connection


def _put(content: bytearray, place: int, data: bytes) -> None:
    if len(content) < place:
        content.extend(bytes(place - len(content)))
    content[place:place + len(data)] = data


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self.name = f"powercut{next(_numbers)}"
        self._disk = disk
        super().__init__(self.name, "", maxpathname=1024)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # type: ignore[override]
        key = name.filename() if isinstance(name, apsw.URIFilename) else name or f"temporary{next(_numbers)}"
        flags[1] = flags[0]
        return _File(self._disk, self._disk.files.setdefault(key, _Stored()))

    def xAccess(self, pathname: str, flags: int) -> bool:
        return pathname in self._disk.files

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if self._disk.reached() and self._disk.files.pop(filename, None) is None:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)

    def xFullPathname(self, name: str) -> str:
        return name


class _File:
    def __init__(self, disk: Disk, stored: _Stored) -> None:
        self._disk = disk
        self._stored = stored

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._stored.seen[offset:offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.write_fails is not None:
            raise self._disk.write_fails()
        if self._disk.reached():
            self._stored.unsynced.append((offset, bytes(data)))
            _put(self._stored.seen, offset, data)

    def xTruncate(self, size: int) -> None:
        if self._disk.reached():
            self._stored.unsynced.append((size, None))
            del self._stored.seen[size:]

    def xSync(self, flags: int) -> None:
        if not self._disk.reached():
            return
        if self._disk.sync_fails is not None:
            raise self._disk.sync_fails()
        if self._stored.durable is None:
            self._stored.durable = bytearray()
        for place, data in self._stored.unsynced:
            if data is None:
                del self._stored.durable[place:]
            else:
                _put(self._stored.durable, place, data)
        self._stored.unsynced.clear()

    def xFileSize(self) -> int:
        return len(self._stored.seen)

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xLock(self, level: int) -> None:
        """One process, one connection."""

    def xUnlock(self, level: int) -> None:
        """See `xLock`."""

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xClose(self) -> None:
        """The content stays on the disk."""
