"""A clock that can be set, for processes that know nothing of it: `time.time` and `time.time_ns` of every service.

The offset is eight bytes of a file that all of them map, so that they see the clock jump at the same instant, as they
would on a machine whose clock is set. The monotonic clock goes on, as it does there. (`datetime.now` reads the system
by itself and stays: no decision hangs on it.)
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

_OFFSET = struct.Struct("<q")


def make(path: Path) -> None:
    """A clock that goes right."""
    path.write_bytes(_OFFSET.pack(0))


def set_to(path: Path, offset_ms: int) -> None:
    """Set it: so much ahead of the machine's."""
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(offset_ms * 1_000_000))


def follow(path: Path) -> None:
    """From now on this process's `time.time` and `time.time_ns` go by the file."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real_s, real_ns = time.time, time.time_ns

    def shifted_ns() -> int:
        return real_ns() + int(_OFFSET.unpack(offset[:8])[0])

    def shifted_s() -> float:
        return real_s() + int(_OFFSET.unpack(offset[:8])[0]) / 1e9

    time.time, time.time_ns = shifted_s, shifted_ns
