"""Memory and processor time of a process and all its descendants, by what they are (Linux)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path


def pss_mb(root_pid: int) -> dict[str, float]:
    """What each process below `root_pid` (itself included) is → its PSS in MiB: a shared page is divided among those
    who share it. Several of one kind are summed up."""
    return _sums(root_pid, _pss_mb)


def cpu_ms(root_pid: int) -> dict[str, float]:
    """The same for the processor time that they have used so far, ms."""
    return _sums(root_pid, _cpu_ms)


def _sums(root_pid: int, measure: Callable[[Path], float]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    children = _children()
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        folder = Path("/proc") / str(pid)
        try:
            kind = _kind((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            found[kind] += measure(folder)
        except (FileNotFoundError, ProcessLookupError):
            # It ended meanwhile.
            continue
    return dict(found)


def _pss_mb(process: Path) -> float:
    match = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def _cpu_ms(process: Path) -> float:
    return sum(int(stat.read_text().split()[0]) for stat in process.glob("task/*/schedstat")) / 1e6


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
