"""`microclaw start|stop|restart SERVICE`."""

from __future__ import annotations

import argparse

from microclaw.bus.supervisor import Supervisor
from microclaw.cli.context import Context
from microclaw.cli.extras import is_installed
from microclaw.cli.readiness import NOT_ON_BUS, unused
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import UnhealthyError, UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The services."""
    none = "; none: all in use" if parser.prog.endswith(" restart") else ""
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"names from `microclaw status`{none}")


def run(context: Context, options: argparse.Namespace) -> int:
    """Change them, in the order given."""
    supervisor = Supervisor(context.home.supervisor_socket)
    services = options.services
    if not services:
        if options.command != "restart":
            raise UsageError(f"{options.command} which service? `microclaw status` lists them; all: microclaw up, down")
        services = _all(context, supervisor)
    done = []
    if options.command != "stop":
        # Read here, so that a typing error in the file takes down nothing that runs.
        context.settings  # noqa: B018 - reading them checks them
        for name in services:
            _usable(context, name)
    for name in services:
        stopped = options.command in ("stop", "restart") and supervisor.stop(name)
        started = options.command in ("start", "restart") and supervisor.start(name)
        done.append({"service": name, "stopped": stopped, "started": started})
        what = {(True, True): "restarted", (False, True): "started", (True, False): "stopped"}
        same = "was running already" if options.command == "start" else "was not running"
        context.say(f"{name} {what.get((stopped, started), same)}")
    if context.json:
        context.dump(done)
    return 0


def _usable(context: Context, name: str) -> None:
    """Whether a connector can be started at all: it would only die. Raises UsageError, UnhealthyError."""
    if name not in CONNECTORS:
        return
    if name not in context.settings.channels.enabled():
        raise UsageError(f"{name} is not in use: `microclaw channels add {name}` puts it to use")
    if not is_installed(name):
        raise UnhealthyError(f"the packages of {name} are not installed: `microclaw channels add {name}` installs them")


def _all(context: Context, supervisor: Supervisor) -> list[str]:
    """What runs after a start: of the connectors those that the configuration asks for. The others are stopped."""
    processes = supervisor.processes()
    off = unused(context, processes)
    for name in sorted(off):
        if supervisor.stop(name):
            context.say(f"{name} stopped: it is not in use")
    return [process.name for process in processes if process.name not in NOT_ON_BUS and process.name not in off]
