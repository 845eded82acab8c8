"""`microclaw up`: check what must be right before anything starts, then become supervisord."""

from __future__ import annotations

import argparse

from microclaw.cli import readiness, supervisord
from microclaw.cli.context import Context
from microclaw.cli.numbers import seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    """-d and how long to wait."""
    parser.add_argument("-d", "--detach", action="store_true", help="run in the background, return when all is ready")
    parser.add_argument("--no-wait", action="store_true", help="with -d: return at once")
    parser.add_argument(
        "--timeout", type=seconds, default=readiness.READY_WAIT_S, metavar="S",
        help="with -d: wait so long (default 30)",
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Start the mesh. In the foreground it does not return."""
    prepare(context)
    if not options.detach:
        lock = supervisord.hold_lock(context.home)
        context.say(f"MicroClaw starts; its logs are in {context.home.logs}; Ctrl-C stops it")
        supervisord.become(lock, context.home, context.env, context.settings.channels.enabled())
    took_s = start(context, wait=not options.no_wait, timeout_s=options.timeout)
    if context.json:
        context.dump({"started": True, "ready_s": took_s and round(took_s, 3)})
    elif took_s is not None:
        context.say(f"MicroClaw is up ({took_s:.1f} s). Talk to it: microclaw chat")
    return 0


def prepare(context: Context) -> None:
    """Settings, folders, the first configuration file, databases.

    :raises UsageError: the configuration is bad. :raises UnhealthyError: a folder or a database is.
    """
    from microclaw.store.migrate import upgrade

    context.settings  # noqa: B018 - reading them checks them
    context.home.create()
    if not context.home.config.exists():
        from microclaw.cli.config_file import write
        from microclaw.core.settings import default_text

        write(context.home.config, default_text(), None)
    for done in upgrade(context.home):
        if ": new " not in done:
            context.progress(f"database {done}")


def start(context: Context, *, wait: bool = True, timeout_s: float = readiness.READY_WAIT_S) -> float | None:
    """Start the mesh in the background. Returns the seconds until it was ready, None if it was not waited for.

    :raises AlreadyRunning: it runs. :raises UnhealthyError: it did not become ready.
    """
    process = supervisord.spawn(context.home, context.env, context.settings.channels.enabled())
    return readiness.wait(context, process, timeout_s) if wait else None
