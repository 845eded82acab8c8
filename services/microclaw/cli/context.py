"""What every command is given: the installation, and how to print."""

from __future__ import annotations

# Imported by every command, `version` too: what is slow to import is imported where it is used.
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microclaw.core.home import Home
    from microclaw.core.settings import Settings

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "grey": 90, "bold": 1}


class Context:
    """One call of the command line."""

    def __init__(
        self, env: dict[str, str] | None = None, *, json: bool = False, colour: bool = True, quiet: bool = False
    ) -> None:
        self.env = dict(os.environ) if env is None else env
        self.json = json
        self.colour = colour
        self.quiet = quiet

    @cached_property
    def home(self) -> Home:
        """The installation that is meant."""
        from microclaw.core.home import home_from

        return home_from(self.env)

    @cached_property
    def settings(self) -> Settings:
        """Its settings. Raises UsageError: the configuration is bad."""
        from microclaw.core.settings import load

        return load(self.home.config, self.env)

    @cached_property
    def colourful(self) -> bool:
        """Whether a person looks at it in colour."""
        wanted = self.colour and not self.env.get("NO_COLOR") and self.env.get("TERM") != "dumb"
        return wanted and sys.stdout.isatty()

    @cached_property
    def in_place(self) -> bool:
        """Whether progress may be one line that changes: a person looks at it on a terminal that can."""
        return sys.stderr.isatty() and not self.quiet and self.env.get("TERM") != "dumb"

    def paint(self, text: str, colour: str) -> str:
        """`text` in this colour, where colours are wanted."""
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if colour and self.colourful else text

    def say(self, text: str) -> None:
        """A line for people: not with --quiet, not with --json."""
        if not self.quiet and not self.json:
            print(text, flush=True)

    def progress(self, text: str) -> None:
        """A line about what is under way, beside the output."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def ask(self, question: str, default: str = "") -> str:
        """What a person types; the default where they type nothing, or nobody is there to ask."""
        if not sys.stdin.isatty():
            return default
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip() or default

    def dump(self, value: object) -> None:
        """The one JSON value that --json prints."""
        import json

        print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None), flush=True)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], colours: Sequence[str] = ()) -> None:
        """Aligned columns; `colours` colours the first column, one a row. What a terminal would obey is taken out."""
        from microclaw.cli.terminal import columns, one_line, padded

        cells = [[one_line(str(cell)) for cell in row] for row in rows]
        widths = [max(columns(line[column]) for line in [[*head], *cells]) for column in range(len(head))]

        def line(row: Sequence[str]) -> list[str]:
            return [padded(cell, width) for cell, width in zip(row, widths, strict=True)]

        print(self.paint("  ".join(line(head)).rstrip(), "grey"))
        for number, row in enumerate(cells):
            first, *rest = line(row)
            shown = self.paint(first, colours[number] if number < len(colours) else "")
            print("  ".join([shown, *rest]).rstrip())


def duration(seconds: float) -> str:
    """A length of time as people say it: `4 s`, `3 min 5 s`, `2 h 4 min`, `3 d 4 h`."""
    seconds = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"
