"""`microclaw down`."""

from __future__ import annotations

import argparse
import time

from microclaw.bus.supervisor import Supervisor
from microclaw.cli import supervisord
from microclaw.cli.context import Context
from microclaw.core.errors import NotRunningError, UnhealthyError

#: Seven services, each at most `stopwaitsecs`, one after the other.
DOWN_WAIT_S = 60.0
POLL_S = 0.05


def arguments(_parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(context: Context, _options: argparse.Namespace) -> int:
    """Stop the mesh and wait for its end. Nothing to stop is no error."""
    try:
        Supervisor(context.home.supervisor_socket).shutdown()
    except NotRunningError:
        if not supervisord.is_held(context.home):
            context.say("MicroClaw was not running")
            return 0
    until = time.monotonic() + DOWN_WAIT_S
    while supervisord.is_held(context.home):
        if time.monotonic() > until:
            raise UnhealthyError(f"MicroClaw did not stop within {DOWN_WAIT_S:.0f} s: see `microclaw logs supervisord`")
        time.sleep(POLL_S)
    context.say("MicroClaw is stopped")
    return 0
