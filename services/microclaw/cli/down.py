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
            return _said(context, "MicroClaw was not running", stopped=False)
    until = time.monotonic() + DOWN_WAIT_S
    while supervisord.is_held(context.home):
        if time.monotonic() > until:
            raise UnhealthyError(f"MicroClaw did not stop within {DOWN_WAIT_S:.0f} s: see `microclaw logs supervisord`")
        time.sleep(POLL_S)
    return _said(context, "MicroClaw is stopped", stopped=True)


def _said(context: Context, text: str, *, stopped: bool) -> int:
    if context.json:
        context.dump({"stopped": stopped})
    context.say(text)
    return 0
