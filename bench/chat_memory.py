"""Memory of a process and all its descendants, as PSS: a shared page is divided among those who share it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path


def pss_mb(root_pid: int) -> dict[str, float]:
    """What each process below `root_pid` (itself included) is → its PSS in MiB. Several of one kind are summed up.

    :raises OSError: /proc is not there (macOS).
    """
    found: dict[str, float] = defaultdict(float)
    children = _children()
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        try:
            command = (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            rollup = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if match := re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE):
            found[_kind(command)] += int(match[1]) / 1024
    return dict(found)


def _children() -> defaultdict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything; the parent is the second field after it.
            found[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _kind(command: str) -> str:
    if match := re.search(r"-m microclaw\.(\w+)", command):
        return "supervisord" if match[1] == "cli" else match[1]
    if "microclaw.agent" in command:
        return "bwrap" if command.startswith("bwrap") else "workers"
    return "supervisord" if "supervisor" in command else command.split(" ")[0].rpartition("/")[2] or "?"
