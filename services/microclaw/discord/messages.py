"""What a Discord message says, in the journal's terms: pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hikari.messages import Attachment as DiscordFile
from hikari.messages import Message, MessageReferenceType, MessageType, PartialMessage
from hikari.users import PartialUser

from microclaw.core.kinds import Attachment, MessageReceived, Quote
from microclaw.core.trigger import default_trigger
from microclaw.discord.places import Places
from microclaw.discord.snowflakes import made_ms

#: `<@1>`, `<@!1>` a person; `<@&1>` a role; `<#1>` a channel; `<:name:1>`, `<a:name:1>` an emoji of a guild's own.
_REFERENCE = re.compile(r"<(?P<kind>@!?|@&|#|a?:(?P<emoji>\w+):)(?P<id>\d+)>")


@dataclass(frozen=True, slots=True)
class Myself:
    """Who we are."""

    user: int
    #: What the assistant is called in the triggers.
    name: str


def is_heard(message: Message, me: Myself) -> bool:
    """Whether it is something that a person wrote, or we. Other bots are not listened to: two of them never end."""
    if message.type not in (MessageType.DEFAULT, MessageType.REPLY):
        return False
    author = message.author
    return author.id == me.user or not (author.is_bot or author.is_system or message.webhook_id)


def files_of(message: Message) -> list[DiscordFile]:
    """Its files, those of a forwarded message included."""
    return [*message.attachments, *(file for each in message.message_snapshots for file in each.attachments)]


def edition_of(message: Message) -> int:
    """When it was last edited, Unix ms; 0 = never."""
    return int(message.edited_timestamp.timestamp() * 1000) if message.edited_timestamp else 0


def received(
    message: Message, me: Myself, places: Places, *, is_group: bool, chat_name: str, is_edit: bool = False,
    files: Sequence[Attachment] = (), notes: Sequence[str] = (),
) -> MessageReceived:
    """The message for the journal. `notes`: lines about files that were not fetched."""
    is_ours = message.author.id == me.user
    return MessageReceived(
        chat=f"discord:{message.channel_id}", platform_id=str(message.id), sender=str(message.author.id),
        sender_name=me.name if is_ours else _name_of(message), sent_ms=made_ms(message.id), chat_name=chat_name,
        text="\n".join([line for line in (text_of(message, me, places), *notes) if line]),
        is_group=is_group, from_me=is_ours, is_own_reply=is_ours, is_edit=is_edit,
        is_forwarded=_is_forwarded(message), is_for_us=_is_for_us(message, me, places),
        quote=_quote(message, me, places), attachments=tuple(files),
    )


def text_of(message: Message, me: Myself, places: Places) -> str:
    """Its text as a person reads it: who mentions us, or the role that is ours alone, writes our name (`@Name`)."""
    said = [message.content, *(each.content for each in message.message_snapshots)]
    lines = [_readable(text, message, me, places) for text in said if text]
    lines += [f"[sticker: {sticker.name}]" for sticker in message.stickers]
    if message.poll:
        answers = " / ".join(answer.poll_media.text or "" for answer in message.poll.answers)
        lines.append(f"[poll: {message.poll.question.text} {answers}]")
    return "\n".join(lines)


def _is_for_us(message: Message, me: Myself, places: Places) -> bool:
    """Whether it mentions us, wherever in the text, or answers a message of ours."""
    if message.author.id == me.user or _is_forwarded(message):
        return False
    answered = message.referenced_message
    if answered is not None and answered.author and answered.author.id == me.user:
        return True
    roles = message.role_mention_ids or ()
    return me.user in (message.user_mentions or {}) or not places.roles_of_bot(me.user).isdisjoint(roles)


def _readable(text: str, message: Message, me: Myself, places: Places) -> str:
    people = message.user_mentions or {}
    ours = places.roles_of_bot(me.user)

    def shown(found: re.Match[str]) -> str:
        number, kind = int(found["id"]), found["kind"]
        if found["emoji"]:
            return f":{found['emoji']}:"
        if number == me.user or number in ours:
            return default_trigger(me.name)
        if kind == "#":
            name = places.channel_name(number)
        elif kind == "@&":
            name = places.role_name(number)
        else:
            person = next((each for each in people.values() if each.id == number), None)
            name = _shown(person) if person else ""
        return f"{kind[0]}{name.lstrip('@')}" if name else found[0]

    return _REFERENCE.sub(shown, text)


def _name_of(message: Message) -> str:
    nick = message.member.nickname if message.member else None
    return nick or _shown(message.author)


def _shown(person: PartialUser) -> str:
    return str(person.display_name or person.username or person.id)


def _is_forwarded(message: Message) -> bool:
    reference = message.message_reference
    return reference is not None and reference.type == MessageReferenceType.FORWARD


def _quote(message: Message, me: Myself, places: Places) -> Quote | None:
    quoted: PartialMessage | None = message.referenced_message
    if quoted is None or _is_forwarded(message):
        return None
    name = ""
    if author := quoted.author:
        name = me.name if author.id == me.user else _shown(author)
    return Quote(
        id=str(quoted.id), sender_name=name, text=_readable(quoted.content or "", message, me, places),
    )
