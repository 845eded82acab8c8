"""File descriptors that are ours until a program has started."""

from __future__ import annotations

import os


class Descriptors:
    """Closes at the end of a `with` what was opened in it."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in tuple(self._open):
            self.close(fd)

    def memory(self, data: bytes) -> int:
        """A file in memory with `data`, to be read from its start."""
        fd = os.memfd_create("microclaw", os.MFD_CLOEXEC)
        self._open.add(fd)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def pipe(self) -> tuple[int, int]:
        """The reading end, the writing end."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def process(self, pid: int) -> int:
        """A handle of a process. :raises ProcessLookupError: it is gone."""
        fd = os.pidfd_open(pid)
        self._open.add(fd)
        return fd

    def keep(self, fd: int) -> None:
        """It is somebody else's from now on, and stays open."""
        self._open.discard(fd)

    def close(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)
