"""`microclaw logs SERVICE [-f]`: the log files as they are on disk, through rotation."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from microclaw.cli.context import Context
from microclaw.cli.log_lines import for_people
from microclaw.cli.numbers import whole
from microclaw.core.errors import UsageError

#: How often a followed file is looked at.
FOLLOW_S = 0.2
LINES_DEFAULT = 50


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which log, how much of it."""
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="a service, or supervisord; none: list the logs")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    parser.add_argument(
        "-n", "--lines", type=whole(0), default=LINES_DEFAULT, metavar="N", help="so many last lines (default 50)"
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Print a log; `--json` prints its lines as they are."""
    folder = context.home.logs
    names = sorted(path.stem for path in folder.glob("*.log"))
    if options.service is None:
        if context.json:
            context.dump(names)
        else:
            print("\n".join(names) if names else f"no logs yet in {folder}")
        return 0
    if options.service not in names:
        known = f"there are: {', '.join(names)}" if names else f"there are none yet in {folder}: `microclaw up`"
        raise UsageError(f"no log of {options.service!r}; {known}")
    path = folder / f"{options.service}.log"
    # Where the file ends now: what comes later is for the follower, once and whole.
    end, last = last_lines(path, max(0, options.lines))
    for line in last:
        show(context, line)
    if options.follow:
        for line in follow(path, end):
            show(context, line)
    return 0


def show(context: Context, line: str) -> None:
    """Print one line of a log."""
    sys.stdout.write((line if context.json else for_people(line, context.paint)) + "\n")
    sys.stdout.flush()


def last_lines(path: Path, count: int) -> tuple[tuple[int, int], list[str]]:
    """Where the file ends (inode, offset behind its last whole line), and its last lines, taken from the rotated
    files too when this one is short."""
    with path.open("rb") as file:
        inode = path.stat().st_ino
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    lines = raw[:end].decode(errors="replace").splitlines()
    number = 1
    while len(lines) < count and (older := path.with_name(f"{path.name}.{number}")).exists():
        lines = older.read_text(errors="replace").splitlines() + lines
        number += 1
    return (inode, end), lines[len(lines) - min(count, len(lines)) :]


def follow(path: Path, begin: tuple[int, int]) -> Iterator[str]:
    """Every whole line after `begin`, for ever, across rotations and truncation."""
    inode, offset = begin
    rest = b""
    file = path.open("rb")
    file.seek(offset)
    while True:
        if chunk := file.read(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            continue
        try:
            facts = path.stat()
        except FileNotFoundError:
            # Between the rename and the new file of a rotation.
            facts = None
        if facts and facts.st_ino != inode:
            # Rotated: what was written to the old file before that is read by now.
            file.close()
            file, inode, rest = path.open("rb"), facts.st_ino, b""
        elif facts and facts.st_size < file.tell():
            file.seek(0)
        else:
            time.sleep(FOLLOW_S)
