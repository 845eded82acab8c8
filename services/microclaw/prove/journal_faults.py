"""A journal that dies, runs out of disk or out of power when it is told to. In a broker on trial only."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from microclaw.bus import checkpoints, journal, storing, upkeep
from microclaw.prove.orders import Order, take

#: What fills the file's free pages while the disk is "full".
_FILLING = "prove_filling"
#: SQLite's own limit, which is what was in force before.
_PAGES_MAX = 4_294_967_294


#: Where the orders are.
_folder = Path()


def install(folder: Path) -> None:
    """The broker, which imports the journal later, gets this one."""
    global _folder
    _folder = folder
    journal.Journal = FaultyJournal  # type: ignore[misc]
    # A trial writes little: so it has as many checkpoints and foldings as a busy year.
    checkpoints.CHECKPOINT_PAGES, checkpoints.LAST_PAGES = 200, 32  # type: ignore[attr-defined]
    upkeep.UNFOLDED_MAX, storing.FOLD_PLACES_MAX = 64, 16  # type: ignore[attr-defined]


class FaultyJournal(journal.Journal):
    """The real journal, on the real SQLite, with a bad day."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._order: Order | None = None
        self._left = 0
        self._full_until: float | None = None
        self._cut: Any = None
        self._look()
        if self._order is not None and self._order.what == "power":
            # A file system that can lose what was not synced: for this life of the broker.
            from microclaw.prove import powercut

            self._cut = powercut.Machine(self._order.seed)
            options["driver"] = self._cut.driver()
        super().__init__(path, **options)
        self._db.execute(f"DROP TABLE IF EXISTS {_FILLING}")

    def begin(self) -> None:
        if self._full_until is not None and time.monotonic() > self._full_until:
            self._free()
        self._look()
        if self._order is not None and self._order.what == "full":
            self._fill(self._order.hold_ms)
            self._order = None
        super().begin()
        self._left -= self._order is not None
        self._here("begun")

    def commit(self) -> None:
        self._here("stored")
        super().commit()
        self._here("committed")

    def _look(self) -> None:
        if self._order is None and (order := take(_folder)) is not None:
            self._order, self._left = order, order.commit

    def _here(self, point: str) -> None:
        if self._order is not None and self._left <= 0 and point == self._order.point:
            self._die()

    def _die(self) -> NoReturn:
        if self._cut is not None:
            self._cut.cut()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL was survived")

    def _fill(self, hold_ms: int) -> None:
        page, free = self._value("PRAGMA page_size"), self._value("PRAGMA freelist_count")
        self._db.execute(f"CREATE TABLE {_FILLING} (filling BLOB)")
        self._db.execute(f"INSERT INTO {_FILLING} VALUES (zeroblob({free * page}))")  # noqa: S608 - no input
        list(self._db.execute(f"PRAGMA max_page_count={self._value('PRAGMA page_count')}"))
        self._full_until = time.monotonic() + hold_ms / 1000

    def _free(self) -> None:
        self._full_until = None
        list(self._db.execute(f"PRAGMA max_page_count={_PAGES_MAX}"))
        self._db.execute(f"DROP TABLE IF EXISTS {_FILLING}")
