"""From what the gateway tells to the journal: each channel in its own lane, so that order is kept inside a channel and
a slow one (a large file, a long history) holds up no other.

What was written while we were away is read from the history before what comes live: from the channel's cursor on, which
is the newest message of it that the journal has.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hikari.api.rest import RESTClient
from hikari.errors import ForbiddenError, HikariError, NotFoundError
from hikari.messages import Message

from microclaw.bus.errors import Refused
from microclaw.bus.service import now_ms
from microclaw.channel.inbound import CURSOR, Heard
from microclaw.channel.link import Unreachable
from microclaw.channel.open import Channel
from microclaw.channel.preview import PREVIEW
from microclaw.core.channels import reconnect_delay_s
from microclaw.discord.files import fetch_files
from microclaw.discord.messages import Myself, edition_of, files_of, is_heard, received
from microclaw.discord.places import Places
from microclaw.discord.preview import FIRST
from microclaw.discord.snowflakes import earlier, first_of, made_ms

log = logging.getLogger("microclaw.channels")

#: Kinds of notes: how far a guild was told of when we first saw it; direct chats (→ the person's name); threads (→
#: their guild); when this account was first connected.
GUILD, DIRECT, THREAD, SINCE = "guild", "direct", "thread", "since"
#: The gateway may tell things out of order or not at all: so much before the cursor is read once more, ms.
OVERLAP_MS = 60_000
#: A thread that was silent for so long is not asked for news when it is not among the active ones, ms.
THREAD_SILENT_MS = 7 * 24 * 3600 * 1000
#: Told and not in the journal yet. Beyond it the connection is given up: the history has it all.
WAITING_MAX = 5_000
#: Messages of the history that Discord gives at once.
PAGE = 100
#: Into the journal at once.
BATCH_MAX = 50
#: Lanes that ask Discord at the same time.
ASKING_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Told:
    """A message as the gateway told it."""

    payload: Mapping[str, Any]
    is_edit: bool


@dataclass(frozen=True, slots=True)
class Missed:
    """Everything after this id is to be read from the history."""

    after: int


class Hearing:
    """What one session of the gateway tells. Made anew for each: what did not reach the journal is told again."""

    def __init__(self, channel: Channel, rest: RESTClient, seen_own: Callable[[str, str], None]) -> None:
        """`seen_own(nonce, message id)`: told of each message of ours that comes back."""
        self._channel = channel
        self._rest = rest
        self._seen_own = seen_own
        self._me = Myself(0, channel.service.settings.assistant.name)
        self._places = Places()
        self._cursors = {int(key): int(value) for key, value in channel.notes.all(CURSOR).items()}
        self._direct = {int(key): name for key, name in channel.notes.all(DIRECT).items()}
        self._threads = {int(key): int(guild) for key, guild in channel.notes.all(THREAD).items()}
        self._lanes: dict[int, deque[Told | Missed]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._asking = asyncio.Semaphore(ASKING_AT_ONCE)
        #: Ends with the first lane that can't go on: the session is of no use then.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, name: str, data: Mapping[str, Any]) -> None:
        """An event, in the order of the gateway. Returns at once.

        :raises Unreachable: too much waits for the journal.
        """
        match name:
            case "READY":
                self._on_ready(data)
            case "GUILD_CREATE":
                self._on_guild(data)
            case "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "THREAD_CREATE" | "THREAD_UPDATE":
                place = self._places.learn(data, int(data.get("guild_id") or 0))
                if place is not None and not place.is_thread:
                    self._tell_names(place.guild)
            case "THREAD_LIST_SYNC":
                for thread in data["threads"]:
                    self._places.learn(thread, int(data["guild_id"]))
            case "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE":
                self._places.learn_role(data["role"])
            case "MESSAGE_CREATE":
                self._on_message(data)
            case "MESSAGE_UPDATE" if data.get("edited_timestamp"):
                # Without it only a preview was added, or a pin: nobody wrote anything.
                self._put(int(data["channel_id"]), Told(data, is_edit=True))

    async def close(self) -> None:
        """Nothing more goes to the journal."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self.failed.cancel()

    # --- what was told ----------------------------------------------------------------------------------------

    def _on_ready(self, data: Mapping[str, Any]) -> None:
        self._me = Myself(int(data["user"]["id"]), self._me.name)
        if not self._channel.notes.get(SINCE, str(self._me.user)):
            self._channel.notes.set(SINCE, {str(self._me.user): str(first_of(now_ms()))})
        # Nobody tells a bot which direct chats have news.
        for channel in self._direct:
            self._catch_up(channel)

    def _on_guild(self, data: Mapping[str, Any]) -> None:
        places = self._places.learn_guild(data)
        guild = int(data["id"])
        self._tell_names(guild)
        floor = int(self._channel.notes.get(GUILD, str(guild)) or 0)
        if not floor:
            # What was written before we came is none of our business.
            floor = max((guild, *(place.last_message for place in places)))
            self._channel.notes.set(GUILD, {str(guild): str(floor)})
            return
        for place in places:
            cursor = self._cursors.get(place.id)
            if place.last_message > (cursor or floor) or (cursor and self._is_recent(cursor, OVERLAP_MS)):
                self._catch_up(place.id, floor)
        listed = {place.id for place in places}
        for thread, home in self._threads.items():
            # It may have been archived since, with news in it.
            if home == guild and thread not in listed and self._is_recent(self._cursors[thread], THREAD_SILENT_MS):
                self._catch_up(thread, floor)

    def _tell_names(self, guild: int) -> None:
        names = {f"discord:{channel}": name for channel, name in self._places.titles(guild).items()}
        worker = asyncio.create_task(self._tell(names), name=f"names {guild}")
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    async def _tell(self, names: dict[str, str]) -> None:
        await self._channel.names.tell(names)

    def _on_message(self, data: Mapping[str, Any]) -> None:
        channel = int(data["channel_id"])
        if nonce := data.get("nonce"):
            self._seen_own(str(nonce), str(data["id"]))
        if not data.get("guild_id"):
            self._note_direct(channel, data["author"])
        self._put(channel, Told(data, is_edit=False))

    def _note_direct(self, channel: int, author: Mapping[str, Any]) -> None:
        """Remember a direct chat, and whose it is: the other one's."""
        is_new = channel not in self._direct
        is_ours = int(author["id"]) == self._me.user
        name = self._direct.get(channel) or ("" if is_ours else str(author.get("global_name") or author["username"]))
        if is_new or name != self._direct[channel]:
            self._direct[channel] = name
            self._channel.notes.set(DIRECT, {str(channel): name})
        if is_new:
            self._catch_up(channel)

    def _catch_up(self, channel: int, floor: int = 0) -> None:
        # Never further back than to where we came.
        after = floor or int(self._channel.notes.get(SINCE, str(self._me.user)))
        if cursor := self._cursors.get(channel):
            after = max(after, earlier(cursor, OVERLAP_MS))
        self._put(channel, Missed(after))

    @staticmethod
    def _is_recent(cursor: int, ms: int) -> bool:
        return now_ms() - made_ms(cursor) < ms

    # --- lanes ------------------------------------------------------------------------------------------------

    def _put(self, channel: int, what: Told | Missed) -> None:
        if self._waiting >= WAITING_MAX:
            raise Unreachable("the journal does not keep up with Discord: connecting anew, nothing is lost")
        self._waiting += 1
        if channel in self._lanes:
            self._lanes[channel].append(what)
            return
        self._lanes[channel] = deque([what])
        worker = asyncio.create_task(self._work(channel), name=f"lane {channel}")
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    async def _work(self, channel: int) -> None:
        lane = self._lanes[channel]
        while lane:
            first = lane.popleft()
            self._waiting -= 1
            if isinstance(first, Missed):
                await self._read_history(channel, first.after)
                continue
            batch = [first]
            while lane and isinstance(lane[0], Told) and len(batch) < BATCH_MAX:
                batch.append(lane.popleft())  # type: ignore[arg-type]
                self._waiting -= 1
            found = [(message, told.is_edit) for told in batch if (message := await self._read(told)) is not None]
            # Stable: an edit stays behind its message.
            await self._take(channel, sorted(found, key=lambda each: each[0].id))
        del self._lanes[channel]

    async def _read(self, told: Told) -> Message | None:
        factory = self._rest.entity_factory
        try:
            return factory.deserialize_message(dict(told.payload))
        except (KeyError, TypeError, ValueError, HikariError) as error:
            # Discord may tell of a message in part; the whole one can be had.
            log.warning("read whole", extra={"id": told.payload.get("id"), "why": f"{type(error).__name__}: {error}"})
        try:
            return await self._rest.fetch_message(int(told.payload["channel_id"]), int(told.payload["id"]))
        except (KeyError, TypeError, ValueError, HikariError) as error:
            self._channel.service.trouble(
                f"discord: message {told.payload.get('id')} can't be read: {type(error).__name__}: {error}"
            )
            return None

    async def _read_history(self, channel: int, after: int) -> None:
        """Until it was read to its end: what comes live waits behind it."""
        failures = 0
        while True:
            try:
                async with self._asking:
                    page = [message async for message in self._rest.fetch_messages(channel, after=after).limit(PAGE)]
            except (ForbiddenError, NotFoundError) as reason:
                log.info("no history", extra={"channel": channel, "why": str(reason)})
                return
            except HikariError as error:
                failures += 1
                log.warning("history not read", extra={"channel": channel, "why": str(error), "failures": failures})
                await asyncio.sleep(reconnect_delay_s(failures, random.random()) / 10)  # noqa: S311 - a pause
                continue
            if not page:
                return
            # Known ones among them may have been edited since.
            cursor = self._cursors.get(channel, 0)
            both = [(message, False) for message in page]
            both += [(message, True) for message in page if message.id <= cursor and edition_of(message)]
            await self._take(channel, both)
            if len(page) < PAGE:
                return
            after = page[-1].id
            failures = 0

    async def _take(self, channel: int, messages: Sequence[tuple[Message, bool]]) -> None:
        place = self._places.of(channel)
        if place is not None and place.is_thread and channel not in self._threads:
            self._threads[channel] = place.guild
            self._channel.notes.set(THREAD, {str(channel): str(place.guild)})
        heard = [
            await self._heard(message, is_edit=is_edit)
            for message, is_edit in messages if is_heard(message, self._me) and not self._is_passing(message)
        ]
        newest = max((self._cursors.get(channel, 0), *(message.id for message, is_edit in messages if not is_edit)))
        try:
            await self._channel.inbound.take(heard, {str(channel): str(newest)} if newest else None)
        except Refused as reason:
            # Never a reason to lose what comes after it.
            self._channel.service.trouble(f"discord: messages of {channel} were refused by the journal: {reason}")
        self._cursors[channel] = newest

    def _is_passing(self, message: Message) -> bool:
        """Whether this is our own message that shows what is being written: it is nothing yet."""
        if message.author.id != self._me.user:
            return False
        shown = self._channel.notes.get(PREVIEW, f"discord:{message.channel_id}").rpartition(" ")[2]
        return message.content == FIRST or shown == str(message.id)

    async def _heard(self, message: Message, *, is_edit: bool) -> Heard:
        files, notes = await fetch_files(self._channel.media, files_of(message))
        # The history does not say it.
        is_group = message.channel_id not in self._direct
        name = self._places.title(message.channel_id) if is_group else self._direct.get(message.channel_id, "")
        said = received(
            message, self._me, self._places, is_group=is_group, chat_name=name, is_edit=is_edit, files=files,
            notes=notes,
        )
        return Heard(said, edition_of(message) if is_edit else 0)
