"""`microclaw version`."""

from __future__ import annotations

import argparse
import platform

from microclaw.cli.context import Context


def arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(context: Context, _options: argparse.Namespace) -> int:
    """Print the version."""
    from importlib.metadata import version

    found = version("microclaw")
    if context.json:
        context.dump({"version": found, "python": platform.python_version()})
    else:
        print(f"microclaw {found}")
    return 0
