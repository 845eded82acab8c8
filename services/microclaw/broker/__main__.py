"""The broker process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time

from microclaw.broker.admin import Administration
from microclaw.broker.peers import judge
from microclaw.broker.serve import Server
from microclaw.bus import only_one
from microclaw.bus.engine import Engine
from microclaw.bus.journal import Journal
from microclaw.bus.logs import configure
from microclaw.bus.service import die_with_parent, now_ms
from microclaw.core.errors import MicroclawError
from microclaw.core.home import home_from
from microclaw.core.rights import guests
from microclaw.core.settings import load

DAY_MS = 24 * 3600 * 1000
#: Objects made and not freed between two looks for cycles.
GC_OBJECTS = 100_000


def main() -> int:
    """Open the journal, bind, serve until SIGTERM."""
    configure("broker")
    log = logging.getLogger("microclaw.broker")
    try:
        home = home_from(os.environ)
        settings = load(home.config, os.environ)
        die_with_parent()
        only_one.hold(home, "broker")
        journal = Journal(home.data / "journal.db")
    except MicroclawError as error:
        log.error(str(error))
        return error.exit_code
    engine = Engine(journal, monotonic=time.monotonic, wall_ms=now_ms,
                    retention_ms=settings.bus.retention_days * DAY_MS,
                    rights=judge(guests(settings.bus), os.getppid()))
    engine.own = Administration(engine, now_ms()).answer
    server = Server(engine, home.bus)
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
    server.run(before_turn=orphaned)
    journal.close()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
