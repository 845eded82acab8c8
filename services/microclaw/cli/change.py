"""`microclaw start|stop|restart SERVICE`."""

from __future__ import annotations

import argparse

from microclaw.bus.supervisor import Supervisor
from microclaw.cli import readiness
from microclaw.cli.context import Context
from microclaw.cli.extras import is_installed
from microclaw.cli.readiness import NOT_ON_BUS, unused
from microclaw.cli.restarting import restart, stages
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import UnhealthyError, UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The services."""
    none = "; none: all in use" if parser.prog.endswith(" restart") else ""
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"names from `microclaw status`{none}")


def run(context: Context, options: argparse.Namespace) -> int:
    """Change them, in the order given; a restart of all is one of the broker and then of the others together."""
    supervisor = Supervisor(context.home.supervisor_socket)
    if not options.services and options.command != "restart":
        raise UsageError(f"{options.command} which service? `microclaw status` lists them; all: microclaw up, down")
    done = []
    if options.command != "stop":
        # Read here, so that a typing error in the file takes down nothing that runs.
        context.settings  # noqa: B018 - reading them checks them
        for name in options.services:
            _usable(context, name)
    if not options.services:
        return _restart_all(context, supervisor)
    for name in options.services:
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


def _restart_all(context: Context, supervisor: Supervisor) -> int:
    """As after a start: of the connectors run those that the configuration asks for. The others are stopped."""
    processes = supervisor.processes()
    off = unused(context, processes)
    names = [process.name for process in processes if process.name not in NOT_ON_BUS and process.name not in off]
    for name in names:
        _usable(context, name)
    for name in sorted(off):
        if supervisor.stop(name):
            context.say(f"{name} stopped: it is not in use")
    done: list[dict[str, object]] = []

    def up(name: str, ran: bool) -> None:
        done.append({"service": name, "stopped": ran, "started": True})
        context.say(f"{name} {'restarted' if ran else 'started'}")

    for stage in stages(names):
        restart(supervisor, stage, up)
    # They were started together: supervisord holds them for started before they are ready.
    readiness.wait(context, None)
    if context.json:
        context.dump(done)
    return 0
