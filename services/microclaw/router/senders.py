"""Who may wake the assistant: the owner's list, read again when it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from microclaw.core.home import Home
from microclaw.core.policy import SenderRules, read_sender_rules

#: A longer list counts as damaged.
LIST_BYTES_MAX = 1 << 20


def list_path(configured: str, home: Home) -> Path | None:
    """Where the configured list is; None = there is none."""
    return home.config.parent / Path(configured).expanduser() if configured else None


class Senders:
    """The list at `path`; None = everybody may. A list that is named and can't be read lets nobody."""

    def __init__(self, path: Path | None, trouble: Callable[[str], None]) -> None:
        self._path = path
        self._trouble = trouble
        self._seen: tuple[int, int] | None = None
        self._rules = SenderRules()

    def rules(self) -> SenderRules:
        """The rules in force."""
        if self._path is None:
            return self._rules
        try:
            facts = self._path.stat()
            seen = (facts.st_mtime_ns, facts.st_size)
        except OSError:
            seen = (0, -1)
        if seen != self._seen:
            self._seen = seen
            self._rules, problems = read_sender_rules(self._read(seen[1]))
            for problem in problems:
                self._trouble(problem)
        return self._rules

    def _read(self, size: int) -> bytes:
        # Not JSON: counts as damaged.
        if self._path is None or not 0 <= size <= LIST_BYTES_MAX:
            return b""
        try:
            return self._path.read_bytes()
        except OSError:
            return b""
