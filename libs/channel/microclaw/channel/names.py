"""The names of the groups that the account is in: told to the router, so that one where nobody wrote yet can be
registered too. What was told is not told again until it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import Refused
from microclaw.channel.link import Link
from microclaw.channel.notes import Notes
from microclaw.core.channels import names_are_due
from microclaw.core.groups import NAME_CHARS_MAX, channel_of, is_chat
from microclaw.core.ids import new_id
from microclaw.core.kinds import ChatsNamed, NamedChat

log = logging.getLogger("microclaw.channels")

#: The kinds of note: what each chat was last said to be called, and when the platform was last asked.
NAMED = "named"
ASKED = "names asked"
#: Chats in one envelope, and of one account.
BATCH_MAX = 200
CHATS_MAX = 5_000
#: How often it is looked whether to ask again, seconds.
LOOK_S = 600.0

#: Asks the platform for its groups: address → name, or None where it has none.
FetchNames = Callable[[], Awaitable[Mapping[str, str | None]]]


class GroupNames:
    """What the groups of one channel are called."""

    def __init__(self, channel: str, bus: Bus, notes: Notes, clock_ms: Callable[[], int]) -> None:
        self._channel = channel
        self._bus = bus
        self._notes = notes
        self._clock_ms = clock_ms

    async def tell(self, names: Mapping[str, str | None]) -> dict[str, str]:
        """Tell the router those that are new or called otherwise now, and return them. Groups without a name are left
        out. Never raises for what the broker refuses: names are not worth a connector."""
        known = self._notes.all(NAMED)
        news = {
            chat: name[:NAME_CHARS_MAX] for chat, name in islice(names.items(), CHATS_MAX)
            if name and is_chat(chat) and channel_of(chat) == self._channel and known.get(chat) != name[:NAME_CHARS_MAX]
        }
        rest = iter(news.items())
        while batch := dict(islice(rest, BATCH_MAX)):
            chats = tuple(NamedChat(chat=chat, name=name) for chat, name in batch.items())
            try:
                await self._bus.publish(
                    Draft(chats[0].chat, ChatsNamed(chats=chats), message_id=new_id(self._clock_ms()))
                )
            except Refused as refused:
                log.warning("the groups' names are refused", extra={"channel": self._channel, "why": refused.why})
                return {}
            self._notes.set(NAMED, batch)
        return news

    async def sync(self, fetch: FetchNames, *, force: bool = False) -> dict[str, str]:
        """Ask the platform, if it is time to, and tell what is new. Never raises for what the platform's library
        does."""
        asked = self._notes.get(ASKED, self._channel)
        if not names_are_due(int(asked) if asked else None, self._clock_ms(), force=force):
            return {}
        try:
            names = await fetch()
        except Exception as error:  # noqa: BLE001 - whatever a platform's library raises
            log.warning("the groups' names can't be had", extra={"why": f"{type(error).__name__}: {error}"})
            return {}
        news = await self.tell(names)
        self._notes.set(ASKED, {self._channel: str(self._clock_ms())})
        return news

    async def keep(self, link: Link, fetch: FetchNames) -> None:
        """Ask now and then, for ever, while connected."""
        while True:
            await link.up.wait()
            await self.sync(fetch)
            await asyncio.sleep(LOOK_S)
