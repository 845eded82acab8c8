"""`microclaw start|stop|restart SERVICE`."""

from __future__ import annotations

import argparse

from microclaw.bus.supervisor import Supervisor
from microclaw.cli.context import Context


def arguments(parser: argparse.ArgumentParser) -> None:
    """The services."""
    parser.add_argument("services", nargs="+", metavar="SERVICE", help="a name from `microclaw status`")


def run(context: Context, options: argparse.Namespace) -> int:
    """Change them, in the order given."""
    supervisor = Supervisor(context.home.supervisor_socket)
    done = []
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
