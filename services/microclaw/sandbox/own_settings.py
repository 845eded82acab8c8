"""What each group has of its own, as the router says."""

from __future__ import annotations

import logging
import time

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.core.container import Container
from microclaw.core.requests import Groups, GroupsAsked

#: How long an answer holds, and how long one is waited for.
HOLDS_S = 30.0
ASK_S = 2.0

log = logging.getLogger("microclaw.sandbox")


class OwnSettings:
    """Asks now and then. While the router is away, what it said last holds; what it never said is the default."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, Container] = {}
        self._asked_s: float | None = None

    async def of(self, group: str) -> Container:
        """The group's."""
        now_s = time.monotonic()
        if self._asked_s is None or now_s - self._asked_s > HOLDS_S or group not in self._known:
            try:
                answer = await self._bus.request("router", GroupsAsked(), Groups, timeout_s=ASK_S)
            except (BusTimeout, NoResponder) as error:
                log.warning("the router does not say what groups have of their own", extra={"why": str(error)})
            else:
                self._known = {known.folder: known.container for known in answer.groups}
                self._asked_s = now_s
        return self._known.get(group, Container())
