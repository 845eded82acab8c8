"""What the router says of the groups: where they talk, and what each has of its own."""

from __future__ import annotations

import logging
import time

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusError
from microclaw.core.container import Container
from microclaw.core.requests import Group, Groups, GroupsAsked, ModelAsked, ModelChosen

#: How long an answer holds, and how long one is waited for.
HOLDS_S = 30.0
ASK_S = 2.0

log = logging.getLogger("microclaw.sandbox")


class OwnSettings:
    """Asks now and then. While the router is away, what it said last holds; what it never said is the default."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, Group] = {}
        self._asked_s: float | None = None
        self._models: dict[str, str] = {}

    async def of(self, group: str) -> Container:
        """What the group has of its own."""
        known = await self.group(group)
        return known.container if known is not None else Container()

    async def group(self, folder: str) -> Group | None:
        """The group of this folder; None = there is none, or nobody has said so yet."""
        await self._look(folder)
        return self._known.get(folder)

    async def main_chat(self) -> str:
        """Where the owner is told things; "" = nobody has said so yet."""
        await self._look("")
        return next((group.chat for group in self._known.values() if group.is_main), "")

    async def model(self, folder: str) -> str:
        """The model that the owner chose for the group, "" = none. Asked at every turn, so that a choice counts from
        the next one on; while the router is away, what it said last holds."""
        try:
            answer = await self._bus.request("router", ModelAsked(group=folder), ModelChosen, timeout_s=ASK_S)
        except BusError as error:
            log.warning("the router does not say which model was chosen", extra={"why": str(error)})
        else:
            self._models[folder] = answer.model
        return self._models.get(folder, "")

    async def _look(self, folder: str) -> None:
        now_s = time.monotonic()
        if self._asked_s is not None and now_s - self._asked_s <= HOLDS_S and (not folder or folder in self._known):
            return
        try:
            answer = await self._bus.request("router", GroupsAsked(), Groups, timeout_s=ASK_S)
        except BusError as error:
            log.warning("the router does not say what groups there are", extra={"why": str(error)})
        else:
            self._known = {known.folder: known for known in answer.groups}
            self._asked_s = now_s
