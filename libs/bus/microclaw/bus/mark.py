"""The newest acknowledged offset, beside the journal: what the journal itself can't tell when its end was cut off.

A write-ahead log that is damaged or truncated ends earlier, and SQLite takes that for its end without a word. The mark
is written after the journal's sync and never synced itself, so it may be old after a power cut and is never ahead.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_MARK = struct.Struct(">16sQ")


class Mark:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self, epoch: str) -> int:
        """The offset, 0 = none of this epoch."""
        raw = os.pread(self._file, _MARK.size, 0)
        if len(raw) < _MARK.size:
            return 0
        of, offset = _MARK.unpack(raw)
        return int(offset) if of == epoch.encode() else 0

    def write(self, epoch: str, offset: int) -> None:
        """Up to here it was on disk."""
        os.pwrite(self._file, _MARK.pack(epoch.encode(), offset), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._file)
