"""What the agent is writing, shown at Telegram: as a draft to a person, as a message that grows elsewhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramNotFound
from aiogram.methods import DeleteMessage, EditMessageText, SendMessage, SendMessageDraft, TelegramMethod

from microclaw.channel.platform import Rejected
from microclaw.telegram.addresses import Moves
from microclaw.telegram.api import Api, sending_error
from microclaw.telegram.formatting import TEXT_MAX, to_html

#: A group takes 20 messages a minute, and a change counts.
PERSON_EVERY_S = 1.0
GROUP_EVERY_S = 4.0
#: What a message says before there is anything to say: should it be left alone, nothing is said twice.
FIRST = "…"


class Preview:
    """The showing as the kit wants it."""

    def __init__(self, api: Api, moves: Moves) -> None:
        self._api = api
        self._moves = moves
        #: A Bot API server of one's own may be too old for drafts, and Telegram may refuse them to a person.
        self._has_drafts = True
        self._without_drafts: set[int] = set()

    def every_s(self, chat: str) -> float:
        """The pause between two."""
        return GROUP_EVERY_S if self._moves.place(chat).is_group else PERSON_EVERY_S

    def leaves(self, chat: str) -> bool:
        """Drafts pass by themselves."""
        place = self._moves.place(chat)
        return place.is_group or not self._has_drafts or place.chat_id in self._without_drafts

    async def show(self, chat: str, run_id: str, text: str, shown: str) -> str:
        """Raises NotSent, Unsure, Rejected."""
        place = self._moves.place(chat)
        thread = place.thread or None
        html = to_html(text, TEXT_MAX)
        if not shown and not self.leaves(chat):
            draft = SendMessageDraft(
                chat_id=place.chat_id, message_thread_id=thread, draft_id=zlib.crc32(run_id.encode()) or 1, text=text,
                parse_mode=None,
            )
            shaped = [draft.model_copy(update={"text": html, "parse_mode": "HTML"})] if html else []
            await self._draft(place.chat_id, [*shaped, draft])
            return ""
        try:
            if not shown:
                sent = await self._api.call(
                    SendMessage(chat_id=place.chat_id, message_thread_id=thread, text=FIRST, parse_mode=None)
                )
                return self._moves.platform_id(sent.chat.id, sent.message_id)
            message_id = self._moves.message_id(shown, place)
            if message_id is None:
                raise Rejected("the group has moved")
            await self._api.call(EditMessageText(
                chat_id=place.chat_id, message_id=message_id, text=html or text, parse_mode="HTML" if html else None,
            ))
        except (AiogramError, TimeoutError) as error:
            raise sending_error(error) from None
        return shown

    async def remove(self, chat: str, shown: str) -> None:
        """Raises aiogram's errors."""
        place = self._moves.place(chat)
        if (message_id := self._moves.message_id(shown, place)) is not None:
            await self._api.call(DeleteMessage(chat_id=place.chat_id, message_id=message_id))

    async def _draft(self, chat_id: int, ways: Sequence[TelegramMethod[bool]]) -> None:
        for number, way in enumerate(ways, 1):
            try:
                await self._api.call(way)
                return
            except TelegramNotFound as error:
                self._has_drafts = False
                raise sending_error(error) from None
            except TelegramBadRequest as error:
                if number == len(ways):
                    self._without_drafts.add(chat_id)
                    raise sending_error(error) from None
            except (AiogramError, TimeoutError) as error:
                raise sending_error(error) from None
