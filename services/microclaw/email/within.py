"""A bound on the time that a computation takes: what strangers write can make a parser think for hours."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TakesTooLong(Exception):
    """It was not done in time."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give up after so long, wherever the computation is by then; Python's regular expressions heed it too. In the main
    thread, for what awaits nothing and does nothing but compute; not one in another.

    :raises TakesTooLong: the time is over.
    """
    def give_up(*_: object) -> None:
        raise TakesTooLong(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
