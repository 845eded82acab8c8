"""One part of a reply to Telegram.

Telegram takes no key of ours and tells a bot nothing of what it sent: whether a message whose answer was lost arrived,
nobody can know. What it refuses (a formatting, a picture that is too large) is certainly not sent, so it is said in
another way at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramMigrateToChat
from aiogram.methods import EditMessageText, SendAudio, SendDocument, SendMessage, SendPhoto, SendVideo, TelegramMethod
from aiogram.types import BufferedInputFile, Message, ReplyParameters

from microclaw.bus.errors import Refused
from microclaw.channel.ledger import Entry
from microclaw.channel.media import Media
from microclaw.channel.platform import Fate, Gone, Limits, NotSent, Rejected
from microclaw.core.kinds import Attachment
from microclaw.core.splitting import utf16_length
from microclaw.core.token_bucket import Rate
from microclaw.telegram.addresses import Moves, Place, address, place_of
from microclaw.telegram.api import UPLOAD_S_MAX, Api, sending_error
from microclaw.telegram.formatting import TEXT_MAX, to_html

#: Bytes of a picture, and of any other file.
PHOTO_BYTES_MAX = 10 << 20
FILE_BYTES_MAX = 50 << 20
#: Telegram's bounds: 30 messages a second to all, about one a second to a person, 20 a minute to a group. Whatever
#: minute is looked at: 5 at once and 15 more.
EVERYWHERE = Rate(per_s=30.0, burst=30.0)
TO_A_PERSON = Rate(per_s=1.0, burst=3.0)
TO_A_GROUP = Rate(per_s=0.25, burst=5.0)

Way = TelegramMethod[Message]


class Outbound:
    """The platform as the kit wants it."""

    def __init__(self, api: Api, media: Media, moves: Moves) -> None:
        self._api = api
        self._media = media
        self._moves = moves
        self.limits = Limits(
            text_max=TEXT_MAX, everywhere=EVERYWHERE, chat=TO_A_PERSON, measure=utf16_length, bucket=bucket,
        )

    async def send(self, entry: Entry) -> str:
        """One part. Raises NotSent, Unsure, Rejected."""
        try:
            place = self._moves.place(entry.chat)
        except ValueError as error:
            raise Rejected(str(error)) from None
        if entry.part.edits:
            return await self._edit(entry, place)
        file = await self._read(entry.part.file) if entry.part.file else None
        try:
            sent = await self._say(self._ways(entry, place, file))
        except TelegramMigrateToChat as moved:
            self._moves.note(place.chat_id, moved.migrate_to_chat_id)
            raise NotSent("the group is a supergroup now", 0.0) from None
        return self._moves.platform_id(sent.chat.id, sent.message_id)

    async def find(self, entry: Entry) -> str | Fate:
        """Nobody can tell."""
        del entry
        return Fate.UNKNOWABLE

    async def _edit(self, entry: Entry, place: Place) -> str:
        """Make the message that showed the answer the answer."""
        message_id = self._moves.message_id(entry.part.edits, place)
        if message_id is None:
            raise Gone("it is in the group as it was before it moved")
        text = entry.part.text
        plain = EditMessageText(chat_id=place.chat_id, message_id=message_id, text=text, parse_mode=None)
        html = to_html(text, TEXT_MAX)
        ways = [plain.model_copy(update={"text": html, "parse_mode": "HTML"}), plain] if html else [plain]
        for way in ways:
            try:
                await self._api.call(way)
            except TelegramMigrateToChat as moved:
                self._moves.note(place.chat_id, moved.migrate_to_chat_id)
                raise Gone("the group is a supergroup now") from None
            except TelegramBadRequest as error:
                if "not modified" in error.message.casefold():
                    return entry.part.edits  # it was changed before
            except (AiogramError, TimeoutError) as error:
                raise sending_error(error) from None
            else:
                return entry.part.edits
        raise Gone("Telegram does not change it")

    async def _say(self, ways: Sequence[Way]) -> Message:
        """In the best way that Telegram takes."""
        for number, way in enumerate(ways, 1):
            try:
                return await self._api.call(way, UPLOAD_S_MAX)
            except TelegramMigrateToChat:
                raise
            except TelegramBadRequest as error:
                if number == len(ways):
                    raise sending_error(error) from None
            except (AiogramError, TimeoutError) as error:
                raise sending_error(error) from None
        raise Rejected("there is nothing to send")

    def _ways(self, entry: Entry, place: Place, file: BufferedInputFile | None) -> list[Way]:
        answered = self._moves.message_id(entry.reply_to, place)
        reply = ReplyParameters(message_id=answered, allow_sending_without_reply=True) if answered else None
        chat, thread = place.chat_id, place.thread or None
        if file is not None and entry.part.file is not None:
            document = SendDocument(chat_id=chat, message_thread_id=thread, reply_parameters=reply, document=file)
            match entry.part.file.mime:
                case "image/jpeg" | "image/png" | "image/webp" if entry.part.file.size_bytes <= PHOTO_BYTES_MAX:
                    photo = SendPhoto(chat_id=chat, message_thread_id=thread, reply_parameters=reply, photo=file)
                    return [photo, document]
                case "video/mp4":
                    video = SendVideo(chat_id=chat, message_thread_id=thread, reply_parameters=reply, video=file)
                    return [video, document]
                case "audio/mpeg" | "audio/mp4":
                    audio = SendAudio(chat_id=chat, message_thread_id=thread, reply_parameters=reply, audio=file)
                    return [audio, document]
            return [document]
        text = entry.part.text
        plain = SendMessage(chat_id=chat, message_thread_id=thread, reply_parameters=reply, text=text, parse_mode=None)
        html = to_html(text, TEXT_MAX)
        return [plain.model_copy(update={"text": html, "parse_mode": "HTML"}), plain] if html else [plain]

    async def _read(self, file: Attachment) -> BufferedInputFile:
        if file.size_bytes > FILE_BYTES_MAX:
            raise Rejected(f"{file.name} has {file.size_bytes} bytes: Telegram takes at most {FILE_BYTES_MAX}")
        try:
            return BufferedInputFile(await self._media.read(file), file.name)
        except Refused as error:
            raise Rejected(f"{file.name} is not kept any more: {error}") from None


def bucket(chat: str) -> tuple[str, Rate]:
    """What a chat's messages count for: topics of a group count together."""
    try:
        place = place_of(chat)
    except ValueError:
        return chat, TO_A_PERSON
    return address(Place(place.chat_id)), TO_A_GROUP if place.is_group else TO_A_PERSON
