"""Limits of one process and what it starts, set from outside before it runs."""

from __future__ import annotations

import resource

from microclaw.sandbox.backend import Limits

#: Largest file a run may write.
FILE_BYTES_MAX = 4 << 30


def bound(pid: int, limits: Limits, *, whole_sandbox: bool) -> None:
    """Set the limits of `pid`.

    :param whole_sandbox: something else bounds memory and processes of the sandbox as a whole; else each
        process gets the memory at most, so that a greedy one fails at once, and the user namespace the number
        of processes.
    :raises OSError: it is gone.
    """
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: FILE_BYTES_MAX,
        resource.RLIMIT_MEMLOCK: 64 << 10,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not whole_sandbox:
        wanted[resource.RLIMIT_DATA] = limits.memory_bytes
        wanted[resource.RLIMIT_NPROC] = limits.pids
    for what, value in wanted.items():
        _, hard = resource.prlimit(pid, what)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.prlimit(pid, what, (value, value))
