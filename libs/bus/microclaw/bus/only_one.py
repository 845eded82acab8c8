"""One process of each service per installation, whoever starts it.

When supervisord is killed its services end by themselves, but not at the same instant; a new supervisord starts theirs
at once. The successor waits here until the predecessor is gone.
"""

from __future__ import annotations

import fcntl
import os
import time

from microclaw.core.errors import UnhealthyError
from microclaw.core.home import Home

#: Longer than a service takes to stop.
WAIT_S = 8.0
RETRY_S = 0.02


def hold(home: Home, name: str, wait_s: float = WAIT_S) -> None:
    """Be the one process of this service until this process ends, however it ends.

    :raises UnhealthyError: another one is, and did not end in time; names its pid.
    """
    lock = os.open(home.run / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            break
        if time.monotonic() > until:
            pid = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise UnhealthyError(f"another {name} (process {pid}) works in this installation: end it (kill {pid})")
        time.sleep(RETRY_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    # Kept open on purpose: the kernel frees the lock with the process.
