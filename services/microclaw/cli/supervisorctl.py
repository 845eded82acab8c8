"""`microclaw supervisorctl …`: supervisor's own control program, on this installation."""

from __future__ import annotations

import argparse
import os
import sys

from microclaw.cli import supervisord
from microclaw.cli.context import Context


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whatever supervisorctl takes."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="status, start NAME, stop NAME, restart NAME, …")


def run(context: Context, options: argparse.Namespace) -> int:
    """Become supervisorctl; its exit status is ours."""
    command = [
        sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", str(supervisord.configuration()), *options.words
    ]
    os.execve(command[0], command, supervisord.environment(context.home, context.env))  # noqa: S606 - no shell
