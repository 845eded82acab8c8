"""When a worker begins and ends its turns, seen from outside: the kernel reports the writes to its transcript.

The first thing that a worker does with a turn is a line in `<sessions>/<group>/group.jsonl`, the last one before the
host hears of its end is another. The folder is the host's, shown inside, so inotify sees both, whatever the backend
(Linux).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from pathlib import Path

_IN_MODIFY = 0x2
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_EVENT_BYTES = 64 * 1024
TRANSCRIPT = "group.jsonl"


class TurnWatch:
    """The moments at which the transcript of one group was written, by `time.time()`."""

    def __init__(self, folder: Path) -> None:
        """:raises OSError: it can't be watched."""
        if sys.platform != "linux":
            raise OSError("turns are watched by inotify, which only Linux has")
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        # The sandbox makes it with these rights, too.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} can't be watched")
        #: Since `expect`.
        self.writes: list[float] = []
        self._written = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def expect(self) -> None:
        """A turn will come: forget what was."""
        self._read()
        self.writes.clear()
        self._written.clear()

    async def begun(self) -> float:
        """The moment of the first write since `expect`."""
        await self._written.wait()
        return self.writes[0]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _EVENT_BYTES)
        except BlockingIOError:
            return
        now = time.time()
        at = 0
        while at < len(events):
            _, _, _, length = _EVENT.unpack_from(events, at)
            name = events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
            at += _EVENT.size + length
            if name == TRANSCRIPT:
                self.writes.append(now)
                self._written.set()
