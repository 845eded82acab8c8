"""Reads supervisord's events on standard input and does what `core.revival` decides.

The listener protocol (supervisor's manual, "Events"): we write READY, read one header line and its payload, answer
RESULT. supervisord does not wait for us with its own work, but calls back by XML-RPC are answered only between events,
so they are made after the RESULT.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator

from microclaw.bus.supervisor import Supervisor
from microclaw.core.alarms import Alarm, add_alarm
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import MicroclawError, UsageError
from microclaw.core.home import Home, home_from
from microclaw.core.revival import Command, Hold, Revival, Start, Tell

_STATE_PREFIX = "PROCESS_STATE_"


def main() -> int:
    """Until supervisord closes our input."""
    home = home_from(os.environ)
    revival = Revival()
    supervisor = Supervisor(home.supervisor_socket)
    for state in events(revival):
        now = time.monotonic()
        commands: list[Command] = revival.due(now)
        if state is not None:
            name, what, expected = state
            commands = revival.on_state(name, what, now, expected=expected) + commands
        for command in commands:
            carry_out(command, home, supervisor, revival)
    return 0


def carry_out(command: Command, home: Home, supervisor: Supervisor, revival: Revival) -> None:
    """Do one thing; what fails is told, and tried again at the next pause."""
    try:
        match command:
            case Tell():
                add_alarm(home, Alarm(
                    ts_ms=time.time_ns() // 1_000_000, service=command.service, state=command.state,
                    detail=command.detail,
                ))
                log(command.detail, service=command.service, state=command.state)
            case Hold():
                supervisor.stop(command.service)
            case Start() if not in_use(home, command.service):
                log("not started again: it is not in use any more", service=command.service)
            case Start():
                log("starting it again", service=command.service)
                supervisor.start(command.service, wait=False)
    except (MicroclawError, OSError) as error:
        log(str(error), service=command.service)
        if isinstance(command, Start):
            revival.on_state(command.service, "FATAL", time.monotonic())


def in_use(home: Home, service: str) -> bool:
    """Whether it is to run. A connector was perhaps taken out of use since it died; a configuration that can't be read
    says nothing against it."""
    if service not in CONNECTORS:
        return True
    # Imported for a dead connector alone: this process is tiny.
    from microclaw.core.settings import load

    try:
        return service in load(home.config, os.environ).channels.enabled()
    except UsageError:
        return True


def events(revival: Revival) -> Iterator[tuple[str, str, bool] | None]:
    """(service, state, expected) of each event; None when something of `revival` is due instead."""
    out, source = sys.stdout, Input(sys.stdin.fileno())
    out.write("READY\n")
    out.flush()
    while True:
        due = revival.next_due()
        if not source.wait(None if due is None else max(0.0, due - time.monotonic())):
            yield None
            continue
        header = source.line()
        if header is None:
            return
        facts = pairs(header)
        payload = pairs(source.read(int(facts["len"])).split("\n")[0])
        out.write("RESULT 2\nOKREADY\n")
        out.flush()
        state = facts["eventname"].removeprefix(_STATE_PREFIX)
        yield payload["processname"], state, payload.get("expected") == "1"


def pairs(line: str) -> dict[str, str]:
    """`a:1 b:2` as a dictionary."""
    return dict(word.split(":", 1) for word in line.split())


class Input:
    """Lines and counted bytes from a descriptor that `select` can watch: no buffer hides what is there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = b""

    def wait(self, timeout_s: float | None) -> bool:
        """Whether there is something to read, waiting for it at most so long."""
        return bool(self._kept) or bool(select.select([self._fd], [], [], timeout_s)[0])

    def line(self) -> str | None:
        """The next line without its end; None = closed."""
        while b"\n" not in self._kept:
            chunk = os.read(self._fd, 4096)
            if not chunk:
                return None
            self._kept += chunk
        line, self._kept = self._kept.split(b"\n", 1)
        return line.decode()

    def read(self, count: int) -> str:
        """Exactly so many bytes, fewer if closed."""
        while len(self._kept) < count:
            chunk = os.read(self._fd, 4096)
            if not chunk:
                break
            self._kept += chunk
        data, self._kept = self._kept[:count], self._kept[count:]
        return data.decode()


def log(event: str, **fields: object) -> None:
    """One line to standard error: standard output belongs to the protocol. (No `logging`: this process is tiny.)"""
    from datetime import UTC, datetime

    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"ts": stamp, "level": "warning", "event": event} | fields) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
