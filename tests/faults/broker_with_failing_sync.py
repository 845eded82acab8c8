"""The broker process on a disk whose syncs fail after it has started: `python -m … ROOT`; a thread publishes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import apsw
from tests.broker_process import OPEN_BUS
from tests.faults.powercut import Disk

from microclaw.broker import __main__ as broker
from microclaw.bus.api import Draft
from microclaw.bus.client import connect
from microclaw.bus.journal import Journal
from microclaw.core.home import home_from
from microclaw.core.kinds import ReplyRequested


def main(root: Path) -> int:
    os.environ["MICROCLAW_HOME"] = str(root)
    home = home_from(os.environ)
    home.create()
    home.config.write_text(OPEN_BUS)
    home.config.chmod(0o600)
    disk = Disk()
    broker.Journal = lambda path: Journal(path, driver=disk.driver())  # type: ignore[assignment,misc]
    # A second connection needs shared memory, which this disk has none of.
    broker.Checkpoints = lambda _journal, _monotonic: None  # type: ignore[assignment,misc]

    async def publish() -> None:
        bus = await connect(home.bus, "p", timeout_s=20)
        await bus.publish(Draft("s", ReplyRequested(chat="s", text="on disk")))
        disk.sync_fails = lambda: apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        await bus.publish(Draft("s", ReplyRequested(chat="s", text="not")))
        os._exit(77)  # acknowledged without being on disk

    threading.Thread(target=asyncio.run, args=(publish(),), daemon=True).start()
    return broker.main()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
