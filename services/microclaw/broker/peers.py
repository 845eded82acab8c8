"""Is a process who it says it is? As far as the kernel can tell.

The mesh's processes are children of one supervisor. A process that takes the name of one of them must have the same
parent as the broker (or be that parent), which nothing outside the mesh can arrange; where the parent of a process
can't be seen (not Linux), the user id alone decides, as `doctor` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from microclaw.core.rights import Rights, rights_of


def parent_of(pid: int) -> int | None:
    """The parent's pid, None where it can't be seen."""
    try:
        # proc(5): "pid (comm) state ppid …"; comm may hold anything, also parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1])


def judge(own: Mapping[str, Rights], supervisor: int) -> Callable[[str, int], Rights | str]:
    """(name, pid) → its rights, or why it has none. `supervisor` is the broker's own parent; pid 0 is a peer on another
    machine, whose key has already said who it is."""

    def rights(name: str, pid: int) -> Rights | str:
        found = rights_of(name, own)
        if found is None:
            return f"{name} has no rights on this bus: give it some in the configuration, [bus.rights.{name}]"
        if found.supervised and pid and os.path.isdir("/proc/self"):  # noqa: PTH112 - one stat, no object
            parent = parent_of(pid)
            if supervisor not in (parent, pid):
                return f"{name} is the name of a service, and process {pid} is not one"
        return found

    return rights
