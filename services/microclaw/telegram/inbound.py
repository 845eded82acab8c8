"""From one of Telegram's updates to `message.received`."""

from __future__ import annotations

from dataclasses import dataclass

from aiogram.types import Message, MessageEntity, Update, User

from microclaw.channel.inbound import Heard
from microclaw.channel.link import Unreachable
from microclaw.channel.media import Skipped, safe_name
from microclaw.channel.open import Channel
from microclaw.core.channels import text_of
from microclaw.core.groups import NAME_CHARS_MAX
from microclaw.core.kinds import Attachment, MessageReceived, Quote
from microclaw.telegram.addresses import Moves, Place
from microclaw.telegram.api import Api, Unfetchable
from microclaw.telegram.wording import mentions, worded

#: The kind of note that says what a topic is called, by its address.
TOPIC = "topic"
#: A file that could not be fetched so often, for reasons that may pass, is left out: what comes after it waits.
FETCH_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a message brings."""

    file_id: str
    name: str
    size_bytes: int | None


class Reader:
    """Reads updates."""

    def __init__(self, api: Api, channel: Channel, moves: Moves) -> None:
        self._api = api
        self._channel = channel
        self._moves = moves
        #: How often the file of the update at hand could not be fetched.
        self._failed: tuple[int, int] = (0, 0)

    async def read(self, update: Update, bot: User) -> Heard | None:
        """The message that an update brings; None = there is nothing to hear in it.

        :raises Unreachable: its file can't be fetched at present.
        """
        message = update.message or update.edited_message
        if message is None:
            return None
        if message.migrate_to_chat_id:
            self._moves.note(message.chat.id, message.migrate_to_chat_id)
        if message.migrate_from_chat_id:
            self._moves.note(message.migrate_from_chat_id, message.chat.id)
        place = Place(message.chat.id, (message.message_thread_id or 0) if message.is_topic_message else 0)
        chat = self._moves.address(place)
        self._note_topic(chat, message)
        is_edit = update.edited_message is not None
        if is_edit and message.location is not None:
            return None  # somebody who shares where they are moves; the place was told once
        text, attachments = await self._content(update.update_id, message, bot)
        if not text and not attachments:
            return None
        platform_id = self._moves.platform_id(message.chat.id, message.message_id)
        sender, sender_name = _who(message)
        received = MessageReceived(
            chat=chat, platform_id=platform_id, sender=sender, sender_name=sender_name, text=text,
            sent_ms=int(message.date.timestamp() * 1000), chat_name=self._chat_name(chat, message),
            is_group=message.chat.type != "private", from_me=sender == str(bot.id),
            is_own_reply=self._channel.ledger.is_ours(chat, platform_id), is_edit=is_edit,
            is_forwarded=message.forward_origin is not None, is_for_us=self._is_for_us(message, bot),
            quote=self._quote(message, bot), attachments=attachments,
        )
        return Heard(received, update.update_id if is_edit else 0)

    async def _content(self, update_id: int, message: Message, bot: User) -> tuple[str, tuple[Attachment, ...]]:
        words = worded(*_words(message), bot)
        found = file_of(message)
        if found is None:
            return text_of(words, told(message)), ()
        taken = await self._fetch(update_id, found)
        if isinstance(taken, Skipped):
            return "\n".join(filter(None, (words, taken.text))), ()
        return words, (taken,)

    async def _fetch(self, update_id: int, found: Found) -> Attachment | Skipped:
        async def fetch(bytes_max: int) -> bytes:
            return await self._api.file(found.file_id, bytes_max)

        try:
            return await self._channel.media.take(found.name, found.size_bytes, fetch)
        except Unfetchable as reason:
            return Skipped(f"[file {safe_name(found.name)}: Telegram does not give it: {reason}]")
        except Unreachable:
            known, failed = self._failed
            self._failed = (update_id, failed + 1 if known == update_id else 1)
            if self._failed[1] < FETCH_TRIES_MAX:
                raise
            return Skipped(f"[file {safe_name(found.name)}: it could not be fetched]")

    def _quote(self, message: Message, bot: User) -> Quote | None:
        cited = message.quote.text if message.quote else ""
        if (answered := message.reply_to_message) is not None and not answered.forum_topic_created:
            text = cited or text_of(worded(*_words(answered), bot), told(answered)) or _named(answered)
            platform_id = self._moves.platform_id(answered.chat.id, answered.message_id)
            return Quote(id=platform_id, sender_name=_who(answered)[1], text=text)
        if message.external_reply is not None:
            # It stands in another chat: what of it was quoted is all that is known.
            return Quote(id="", text=cited)
        return None

    def _is_for_us(self, message: Message, bot: User) -> bool:
        answered = message.reply_to_message
        to_us = answered is not None and answered.from_user is not None and answered.from_user.id == bot.id
        return mentions(*_words(message), bot) or (to_us and not (answered and answered.forum_topic_created))

    def _note_topic(self, chat: str, message: Message) -> None:
        if not message.is_topic_message:
            return
        begun = message.reply_to_message.forum_topic_created if message.reply_to_message else None
        made = message.forum_topic_edited or message.forum_topic_created
        known = self._channel.notes.get(TOPIC, chat)
        # The message that began a topic, which each message in it carries, has its first name for ever.
        name = (made.name if made else None) or known or (begun.name if begun else "")
        if name and name != known:
            self._channel.notes.set(TOPIC, {chat: name})

    def _chat_name(self, chat: str, message: Message) -> str:
        name = message.chat.title or message.chat.full_name
        topic = self._channel.notes.get(TOPIC, chat) if message.is_topic_message else ""
        return (f"{name} / {topic}" if topic else name)[:NAME_CHARS_MAX]


def file_of(message: Message) -> Found | None:
    """The file that a message brings."""
    number = message.message_id
    if message.photo:
        best = max(message.photo, key=lambda size: size.width * size.height)
        return Found(best.file_id, f"photo_{number}.jpg", best.file_size)
    if (note := message.video_note) is not None:
        return Found(note.file_id, f"video_note_{number}.mp4", note.file_size)
    if (voice := message.voice) is not None:
        return Found(voice.file_id, f"voice_{number}.ogg", voice.file_size)
    # An animation is told as a document too, for old programs.
    for file, kind in (
        (message.animation, "animation"), (message.video, "video"), (message.audio, "audio"),
        (message.document, "document"),
    ):
        if file is not None:
            return Found(file.file_id, file.file_name or f"{kind}_{number}", file.file_size)
    return None


def told(message: Message) -> str:
    """One line for what is neither text nor file; "" = it is nothing that is said in a chat."""
    if (sticker := message.sticker) is not None:
        return f"[sticker {sticker.emoji or ''}".rstrip() + "]"
    if (venue := message.venue) is not None:
        return f"[place {venue.title}, {venue.address}: {venue.location.latitude}, {venue.location.longitude}]"
    if (location := message.location) is not None:
        return f"[location {location.latitude}, {location.longitude}]"
    if (contact := message.contact) is not None:
        name = " ".join(filter(None, (contact.first_name, contact.last_name)))
        return f"[contact {name}: {contact.phone_number}]"
    if (poll := message.poll) is not None:
        return f"[poll {poll.question}: {' / '.join(option.text for option in poll.options)}]"
    if (dice := message.dice) is not None:
        return f"[dice {dice.emoji} {dice.value}]"
    if message.story is not None:
        return "[story]"
    return ""


def _words(message: Message) -> tuple[str, list[MessageEntity]]:
    if message.text:
        return message.text, message.entities or []
    return message.caption or "", message.caption_entities or []


def _named(message: Message) -> str:
    found = file_of(message)
    return f"[file {safe_name(found.name)}]" if found else ""


def _who(message: Message) -> tuple[str, str]:
    """Id and name of who wrote it: a channel or group that speaks as itself comes before the account behind it."""
    if (chat := message.sender_chat) is not None:
        return str(chat.id), (chat.title or chat.full_name)[:NAME_CHARS_MAX]
    if (user := message.from_user) is not None:
        return str(user.id), user.full_name[:NAME_CHARS_MAX]
    return str(message.chat.id), (message.chat.title or message.chat.full_name)[:NAME_CHARS_MAX]
