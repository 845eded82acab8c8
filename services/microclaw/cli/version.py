"""`microclaw version`."""

from __future__ import annotations

import argparse
import sys

from microclaw.cli.context import Context
from microclaw.core.version import VERSION


def arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(context: Context, _options: argparse.Namespace) -> int:
    """Print the version."""
    if context.json:
        context.dump({"version": VERSION, "python": ".".join(map(str, sys.version_info[:3]))})
    else:
        print(f"microclaw {VERSION}")
    return 0
