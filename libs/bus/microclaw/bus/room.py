"""Whether there is room on the journal's disk: what is done when there is none, and when there is again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from microclaw.bus.ballast import Ballast

#: A publisher that was refused for want of room comes back after this.
NO_SPACE_RETRY_MS = 1_000

log = logging.getLogger("microclaw.broker")


class Room:
    """The state of the disk. Without a ballast a full disk is only noticed, not provided for."""

    def __init__(self, ballast: Ballast | None, monotonic: Callable[[], float]) -> None:
        self._ballast = ballast
        self._monotonic = monotonic
        self._look_at = 0.0
        #: The disk was full, and publishers wait.
        self.none = ballast is not None and not ballast.load()

    def for_publishers(self) -> bool:
        """Whether anything may be accepted; looks now and then whether there is room again."""
        if not self.none or self._ballast is None:
            return True
        now = self._monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + NO_SPACE_RETRY_MS / 2000
        self.none = not self._ballast.load()
        if not self.none:
            log.info("there is room on the disk again")
        return not self.none

    def full(self) -> None:
        """The disk is full: publishers wait, the reserve is for what makes room."""
        if not self.none:
            log.error("the disk is full: nothing is accepted until there is room")
        self.none = True
        if self._ballast is not None:
            self._ballast.drop()

    def written(self) -> None:
        """A publish was committed."""
        if self._ballast is None:
            self.none = False
