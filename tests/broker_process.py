"""A real broker process in a home of its own, for tests of whatever talks to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from microclaw.bus.api import Bus
from microclaw.bus.client import connect
from microclaw.core.home import Home, home_from

#: Nothing here takes so long unless it is broken.
DEADLINE_S = 20.0

#: Every name that is not a service's may do everything.
OPEN_BUS = """
[bus.rights."*"]
publish = [">"]
sessions = [""]
read = [">"]
ask = ["*"]
replay = [""]
"""


class BrokerProcess:
    """`python -m microclaw.broker`, to be killed and started at will."""

    def __init__(self, root: Path | None = None, config: str = "") -> None:
        # Below /tmp and short: a Unix socket's path may have about 100 characters.
        self.root = root or Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self.env = os.environ | {"MICROCLAW_HOME": str(self.root)}
        self.home: Home = home_from(self.env)
        self.home.create()
        self.home.config.write_text(config or OPEN_BUS)
        self.home.config.chmod(0o600)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> BrokerProcess:
        log = (self.home.logs / "broker.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "microclaw.broker"], env=self.env, stdout=log, stderr=subprocess.STDOUT
        )
        log.close()
        return self

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it by this signal; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.kill(number)
        self.start()

    async def bus(self, name: str) -> Bus:
        return await connect(self.home.bus, name, timeout_s=DEADLINE_S)

    def log(self) -> str:
        return (self.home.logs / "broker.log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        shutil.rmtree(self.root, ignore_errors=True)
