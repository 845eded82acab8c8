"""Long work beside the traffic: checking every row, a backup. One at a time, in a thread with its own connection."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import msgspec

from microclaw.bus.admin import JobState, StartJob
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check, open_read_only
from microclaw.bus.upkeep import Upkeep
from microclaw.core.requests import Failed

#: Pages copied at once by a backup; between two steps the broker writes.
BACKUP_PAGES = 256


class Jobs:
    """The one job that runs, or the last one that ran."""

    def __init__(self, journal: Journal, upkeep: Upkeep) -> None:
        self._journal = journal
        self._upkeep = upkeep
        self._state = JobState(job="", done=True, progress=1.0)
        self._thread: threading.Thread | None = None

    def state(self) -> JobState:
        """How it is."""
        return self._state

    def start(self, wanted: StartJob) -> msgspec.Struct:
        """Begin it; refused while another one runs."""
        if self._thread is not None and self._thread.is_alive():
            return Failed(reason=f"{self._state.job} is still at work: wait for it", code="conflict")
        if wanted.job == "compact":
            self._upkeep.compact()
            self._state = JobState(job="compact", done=True, progress=1.0)
            return self._state
        if wanted.job == "backup":
            path = Path(wanted.path)
            if not path.is_absolute() or not path.parent.is_dir() or path.exists():
                return Failed(reason=f"{wanted.path}: name a new file in a folder that is there")
        self._state = JobState(job=wanted.job, done=False, progress=0.0)
        work = self._check if wanted.job == "check" else self._backup
        self._thread = threading.Thread(target=work, args=(wanted.path,), name=wanted.job, daemon=True)
        self._thread.start()
        return self._state

    def _progress(self, share: float) -> None:
        self._state = msgspec.structs.replace(self._state, progress=share)

    def _check(self, _path: str) -> None:
        findings = check(self._journal.path, self._progress)
        self._state = msgspec.structs.replace(self._state, done=True, progress=1.0, findings=tuple(findings))

    def _backup(self, path: str) -> None:
        try:
            previous = os.umask(0o077)
            try:
                source, target = open_read_only(self._journal.path), sqlite3.connect(path)
            finally:
                os.umask(previous)
            try:
                # Of this moment: SQLite begins a copy anew with every write that it sees, and they would never end.
                source.execute("BEGIN")
                source.execute("SELECT 1 FROM meta").fetchone()
                source.backup(
                    target, pages=BACKUP_PAGES, sleep=0.01,
                    progress=lambda _status, left, total: self._progress(1 - left / max(total, 1)),
                )
            finally:
                target.close()
                source.close()
        except sqlite3.Error as error:
            self._state = msgspec.structs.replace(self._state, done=True, error=f"the backup failed: {error}")
            return
        self._state = msgspec.structs.replace(self._state, done=True, progress=1.0)
