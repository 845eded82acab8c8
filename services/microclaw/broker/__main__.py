"""The broker process."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

from microclaw.broker.admin import Administration
from microclaw.broker.peers import judge
from microclaw.broker.serve import Server, want_descriptors
from microclaw.bus import only_one
from microclaw.bus.ballast import Ballast
from microclaw.bus.blobs import BlobStore
from microclaw.bus.checkpoints import Checkpoints
from microclaw.bus.curve import KeyRing
from microclaw.bus.engine import Engine
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NoSpace
from microclaw.bus.logs import configure
from microclaw.bus.service import die_with_parent, now_ms
from microclaw.core.disk import Unwritable, check_writable, unwritable
from microclaw.core.errors import MicroclawError, UnhealthyError, UsageError
from microclaw.core.home import home_from
from microclaw.core.rights import guests, rights_of
from microclaw.core.settings import load

DAY_MS = 24 * 3600 * 1000
#: Objects made and not freed between two looks for cycles.
GC_OBJECTS = 100_000
#: Errors that are the disk's and not ours, as SQLite and the system name them.
SQLITE_DISK = ("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_CANTOPEN")
DISK = (errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT)


def main() -> int:
    """Open the journal, bind, serve until SIGTERM."""
    configure("broker")
    log = logging.getLogger("microclaw.broker")
    try:
        home = home_from(os.environ)
        settings = load(home.config, os.environ)
        die_with_parent()
        want_descriptors()
        only_one.hold(home, "broker")
        ballast = Ballast(home.data / "journal.ballast")
        journal = _open(home.data / "journal.db", ballast)
    except MicroclawError as error:
        log.error(str(error))
        return error.exit_code
    except OSError as error:
        log.error(str(unwritable(error)))
        return Unwritable.exit_code
    own = guests(settings.bus)
    engine = Engine(journal, monotonic=time.monotonic, wall_ms=now_ms,
                    retention_ms=settings.bus.retention_days * DAY_MS,
                    rights=judge(own, os.getppid()), ballast=ballast, blobs=BlobStore(home.data / "blobs"))
    engine.upkeep.checkpoints = checkpoints = Checkpoints(journal, time.monotonic)
    ring = KeyRing(home.data / "bus-keys")
    engine.own = Administration(
        engine, now_ms(), ring, settings.bus.listen, lambda name: rights_of(name, own) is not None
    ).answer
    try:
        server = Server(engine, home.bus, listen=settings.bus.listen, ring=ring)
    except UsageError as error:
        log.error(str(error))
        return error.exit_code
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: server.stop())
    parent = os.getppid()

    def orphaned() -> None:
        if os.getppid() != parent:
            server.stop()

    # What the broker allocates for a message it frees by counting; cycles are rare, and looking for them is 5 % of a
    # busy broker's time.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    log.info("ready", extra=engine.facts() | {"epoch": journal.epoch})
    try:
        server.run(now_and_then=orphaned)
        checkpoints.close()
    except Exception as error:
        # After a failed write or sync nobody knows what is on the disk, so nothing more is written, not even by closing
        # the journal: the next start reads what is there.
        why = _of_the_disk(error, journal.path)
        log.critical(
            "the broker ends without answering: what it was doing is not acknowledged%s", f"; {why}" if why else "",
            exc_info=not why,
        )
        logging.shutdown()
        os._exit(UnhealthyError.exit_code)
    log.info("stopped")
    return 0


def _open(path: Path, ballast: Ballast) -> Journal:
    try:
        return Journal(path)
    except NoSpace:
        ballast.drop()
        return Journal(path)


def _of_the_disk(error: Exception, journal: Path) -> str:
    """What is wrong with the disk, in words; "" = something else is wrong."""
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname.startswith(SQLITE_DISK):
        # SQLite hides what the system said to it: ask again.
        try:
            check_writable(journal.parent)
        except Unwritable as trouble:
            return str(trouble)
        return str(unwritable(OSError(0, str(error)), str(journal)))
    return str(unwritable(error, str(journal))) if isinstance(error, OSError) and error.errno in DISK else ""


if __name__ == "__main__":
    sys.exit(main())
