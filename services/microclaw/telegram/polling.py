"""Staying connected: long polls, each of which tells Telegram what the journal has by now."""

from __future__ import annotations

import hashlib
import json
import logging

from aiogram.exceptions import AiogramError, ClientDecodeError
from aiogram.methods import GetMe, GetUpdates, SetMyCommands
from aiogram.types import BotCommand, Update, User
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from microclaw.bus.errors import BusError
from microclaw.bus.service import now_ms
from microclaw.channel.link import Unreachable
from microclaw.channel.open import Channel
from microclaw.core.chat_commands import menu
from microclaw.telegram.api import Api, polling_error, reason_of
from microclaw.telegram.inbound import Reader

log = logging.getLogger("microclaw.telegram")

#: How long Telegram holds a poll that has nothing to tell, and how long we wait for its end, seconds.
POLL_S = 25
POLL_S_MAX = POLL_S + 15
UPDATES_MAX = 100
#: All that we ask for: Telegram keeps the rest to itself.
ALLOWED_UPDATES = ["message", "edited_message"]
#: After a week of silence Telegram counts updates anew, from any number. Then no offset is given: what it repeats is
#: one message all the same.
OFFSET_KEPT_MS = 6 * 24 * 3600 * 1000
#: The kind of note that says which menu of commands a bot has.
MENU = "menu"
#: Telegram takes 100 commands and shows them all: more than this nobody reads.
COMMANDS_MAX = 20


class Polling:
    """The connection."""

    def __init__(self, channel: Channel, api: Api, reader: Reader) -> None:
        self._channel = channel
        self._api = api
        self._reader = reader
        self._secret_name = channel.service.settings.channels.telegram.token

    async def connect(self) -> None:
        """Poll for ever. Raises Unreachable, LoggedOut."""
        link = self._channel.link
        try:
            self._api.use(await self._channel.secret())
            bot = await self._api.call(GetMe())
            await self._set_menu(bot)
            link.connected(f"@{bot.username}" if bot.username else bot.full_name)
            while True:
                updates = await self._poll(_offset(self._channel))
                link.event()
                for update in updates:
                    await self._take(update, bot)
        except (AiogramError, TimeoutError) as error:
            found = polling_error(error, self._secret_name)
            if isinstance(found, Unreachable) and link.failures >= 2:
                # Not the hiccup of a moment: the owner may have to do something about it.
                self._channel.service.trouble(f"telegram: {found}")
            raise found from None

    async def _take(self, update: Update, bot: User) -> None:
        heard = None
        try:
            heard = await self._reader.read(update, bot)
        except (Unreachable, BusError, SQLAlchemyError):
            raise  # it passes: the platform, the broker, a full disk
        except Exception:
            # Read again it would be no better, and everything after it would wait for ever.
            log.exception("can't be understood", extra={"update": update.update_id})
            self._channel.service.trouble(f"telegram: update {update.update_id} can't be understood and is left out")
        await self._channel.inbound.take(
            [heard] if heard else [], {"offset": str(update.update_id + 1), "at_ms": str(now_ms())}
        )

    async def _poll(self, offset: int | None) -> list[Update]:
        asked = GetUpdates(offset=offset, limit=UPDATES_MAX, timeout=POLL_S, allowed_updates=ALLOWED_UPDATES)
        try:
            updates = await self._api.call(asked, POLL_S_MAX)
        except ClientDecodeError as error:
            updates = self._readable(error)
        # Whatever way they come in: in the order in which they happened.
        return sorted(updates, key=lambda update: update.update_id)

    def _readable(self, error: ClientDecodeError) -> list[Update]:
        """The updates of an answer of which aiogram can't read one: that one is left out, or we would never get on."""
        raw = error.data.get("result") if isinstance(error.data, dict) and error.data.get("ok") else None
        if not isinstance(raw, list):
            raise error
        updates = []
        for each in raw:
            try:
                updates.append(Update.model_validate(each))
            except ValidationError:
                number = each.get("update_id") if isinstance(each, dict) else None
                if not isinstance(number, int):
                    raise error from None
                self._channel.service.trouble(f"telegram: update {number} can't be read and is left out")
                updates.append(Update(update_id=number))
        return updates

    async def _set_menu(self, bot: User) -> None:
        """The commands that Telegram offers when a "/" is typed. Worth no connection."""
        commands = [BotCommand(command=name, description=means) for name, means in menu()[:COMMANDS_MAX]]
        mark = hashlib.sha256(json.dumps(menu()).encode()).hexdigest()
        if self._channel.notes.get(MENU, str(bot.id)) == mark:
            return
        try:
            await self._api.call(SetMyCommands(commands=commands))
        except (AiogramError, TimeoutError) as error:
            log.warning("the menu can't be set", extra={"why": reason_of(error)})
        else:
            self._channel.notes.set(MENU, {str(bot.id): mark})


def _offset(channel: Channel) -> int | None:
    """The next update's number; None = it can't be known."""
    offset, at_ms = channel.inbound.cursor("offset"), channel.inbound.cursor("at_ms", "0")
    return int(offset) if offset and now_ms() - int(at_ms) < OFFSET_KEPT_MS else None
