"""What this process asks of the kernel and of logging: that values stay inside, and that it may hold enough sockets."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
from collections.abc import Callable

#: Descriptors wanted: two a tunnel, one a connection.
DESCRIPTORS = 4096

_PR_SET_DUMPABLE = 4


class _Masking(logging.Formatter):
    """Masks what another formatter made, traces included."""

    def __init__(self, inner: logging.Formatter, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._inner = inner
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        return self._clean(self._inner.format(record))


def hide_in_logs(clean: Callable[[str], str]) -> None:
    """Pass every log line of this process through `clean`."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Masking(handler.formatter or logging.Formatter(), clean))


def hold_many_sockets() -> None:
    """Raise our own limit of descriptors as far as we are wanted to, or allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_memory_private() -> None:
    """No core file; on Linux no other process of the same user can read our memory or trace us either."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
