"""Checkpoints beside the traffic: a thread brings the write-ahead log into the journal's file while commits go on.

By itself SQLite does it inside a commit, and all publishers wait for sixteen megabytes. But a log begins anew only at a
moment when all of it is copied, and under load more is written during each copy: so the thread copies most of it, and
the little that is left then is copied between two turns. How long the log is stands at the beginning of its index
(https://sqlite.org/walformat.html, "The WAL-Index File Format").
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from microclaw.bus.journal import CHECKPOINT_PAGES, Journal
from microclaw.bus.journal_schema import NoSpace

#: Pages copied between two turns, at most: how long a publisher may have to wait for it (1 MB and its sync).
LAST_PAGES = 256
#: After a try that did not bring the log to its end (the disk is full, or somebody reads an older state), seconds.
AGAIN_S = 1.0
#: Should none of this work, a commit does it by itself when the log is so long.
FALLBACK_PAGES = 4 * CHECKPOINT_PAGES

#: Of the log's index: how many pages the log has, and how many of them are copied, in the machine's byte order.
_PAGES, _COPIED = struct.Struct("=16xI"), struct.Struct("=96xI")

log = logging.getLogger("microclaw.broker")


class Checkpoints:
    """When what is copied. For the broker's one thread."""

    def __init__(self, journal: Journal, monotonic: Callable[[], float]) -> None:
        self._journal = journal
        self._monotonic = monotonic
        journal.checkpoint_after(FALLBACK_PAGES)
        # Closing any descriptor of a file gives up all locks of the process on it: these are open longer than SQLite's.
        self._index = os.open(f"{journal.path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        self._file = os.open(journal.path, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._copying: Future[None] | None = None
        self._copied_before = -1
        self._again_at = 0.0
        #: Of this log it was said that it can't be copied.
        self._told = False

    def log(self) -> tuple[int, int]:
        """(pages in the log, how many of them are copied)."""
        index = os.pread(self._index, _COPIED.size, 0)
        return _PAGES.unpack_from(index)[0], _COPIED.unpack(index)[0]

    def turn(self) -> None:
        """Begin what is due, or bring it to its end. Call it when all is answered.

        :raises sqlite3.Error: or OSError: the disk does not keep its promises; the process must end.
        """
        if self._copying is not None and not self._copying.done():
            return
        self.rest()
        pages, copied = self.log()
        if pages < CHECKPOINT_PAGES:
            self._again_at, self._copied_before, self._told = 0.0, -1, False
        elif copied < pages and self._monotonic() >= self._again_at:
            if pages - copied <= LAST_PAGES:
                self._finish()
            elif copied == self._copied_before:
                self._wait("somebody reads an older state")
            else:
                self._copied_before = copied
                self._copying = self._thread.submit(self._copy)

    def rest(self) -> None:
        """Until the thread does nothing. Raises as `turn`."""
        if self._copying is not None:
            ended, self._copying = self._copying, None
            try:
                ended.result()
            except NoSpace:
                self._wait("the disk is full")

    def _copy(self) -> None:
        """In the thread."""
        self._journal.copy_beside()
        # SQLite syncs the file only with the last page of the log, and then there would be all this to wait for.
        os.fsync(self._file)

    def _finish(self) -> None:
        try:
            self._journal.checkpoint()
        except NoSpace:
            self._wait("the disk is full")
        else:
            # The next commit begins the log anew, unless somebody reads.
            self._again_at = self._monotonic() + AGAIN_S

    def _wait(self, why: str) -> None:
        if not self._told:
            # Once: a backup may read for minutes.
            log.warning("the write-ahead log can't be brought into the journal now", extra={"why": why})
        self._told = True
        self._again_at, self._copied_before = self._monotonic() + AGAIN_S, -1

    def close(self) -> None:
        """Wait for the thread, close the journal, and after it what is open beside it. Raises as `turn`, and then the
        journal is not closed, which would write to it."""
        self.rest()
        self._thread.shutdown()
        self._journal.close()
        os.close(self._index)
        os.close(self._file)
