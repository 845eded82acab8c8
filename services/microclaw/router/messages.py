"""The stored messages: kept once, renewed by edits, marked when a run has got them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, bindparam, insert, select, update

from microclaw.bus.api import Draft
from microclaw.core.channels import shown_name
from microclaw.core.groups import channel_of
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import Attachment, MessageReceived, NamedChat, PromptMessage, Quote, RunRequested
from microclaw.core.people import Role, is_trusted
from microclaw.core.prompt import split
from microclaw.core.requests import Group
from microclaw.router.tables import chats, messages

# Built once: making a statement costs more than running it.
_CHAT = select(chats).where(chats.c.chat == bindparam("chat"))
_ADD_CHAT = insert(chats)
_RENEW_CHAT = update(chats).where(chats.c.chat == bindparam("here"))
_MESSAGE = select(
    messages.c.number, messages.c.request_id, messages.c.is_own_reply, messages.c.is_trusted
).where(
    messages.c.chat == bindparam("chat"), messages.c.platform_id == bindparam("platform_id")
)
_ADD_MESSAGE = insert(messages)
_RENEW_MESSAGE = update(messages).where(messages.c.number == bindparam("known"))
_MARK = update(messages).where(messages.c.number == bindparam("marked"))
_HEARD = (
    select(messages.c.number).where(messages.c.chat == bindparam("chat"), messages.c.is_own_reply.is_(False)).limit(1)
)
_WAITING = (
    select(messages)
    .where(
        messages.c.chat == bindparam("chat"), messages.c.request_id.is_(None), messages.c.is_own_reply.is_(False)
    )
    # Networks deliver late: what came in the meantime is told as it was said.
    .order_by(messages.c.sent_ms, messages.c.number)
)


def note_chat(db: Connection, received: MessageReceived) -> None:
    """Remember that this chat exists, what it is called and when it was last heard of."""
    known = db.execute(_CHAT, {"chat": received.chat}).first()
    if known is None:
        db.execute(_ADD_CHAT, {
            "chat": received.chat, "name": received.chat_name or received.chat,
            "last_message_ms": received.sent_ms, "is_group": received.is_group,
        })
    else:
        db.execute(_RENEW_CHAT, {
            "here": received.chat, "name": received.chat_name or known.name,
            "last_message_ms": max(received.sent_ms, known.last_message_ms), "is_group": received.is_group,
        })


def name_chat(db: Connection, named: NamedChat) -> None:
    """Remember what a group chat is called. That it was heard of is not said."""
    if db.execute(_CHAT, {"chat": named.chat}).first() is None:
        db.execute(_ADD_CHAT, {"chat": named.chat, "name": named.name, "last_message_ms": 0, "is_group": True})
    else:
        db.execute(_RENEW_CHAT, {"here": named.chat, "name": named.name})


def store(db: Connection, received: MessageReceived, role: Role | None = None) -> bool:
    """Keep the message; the same platform id again (an edit, a repeat) only renews its content. `role`: the writer's.

    Returns whether it is a person's and no run has got it yet.
    """
    content = {
        "text": received.text,
        "quote": msgspec.msgpack.encode(received.quote),
        "attachments": msgspec.msgpack.encode(received.attachments),
        "is_trusted": is_trusted(received, role, is_quote_known=_quotes_trusted(db, received)),
    }
    known = db.execute(_MESSAGE, {"chat": received.chat, "platform_id": received.platform_id}).first()
    if known is not None:
        db.execute(_RENEW_MESSAGE, content | {"known": known.number})
        return known.request_id is None and not known.is_own_reply
    db.execute(_ADD_MESSAGE, content | {
        "chat": received.chat, "platform_id": received.platform_id, "sender": received.sender,
        "sender_name": shown_name(received.sender, received.sender_name), "sent_ms": received.sent_ms,
        "from_me": received.from_me, "is_own_reply": received.is_own_reply, "request_id": None,
    })
    return not received.is_own_reply


def _quotes_trusted(db: Connection, received: MessageReceived) -> bool:
    """What the message quotes is trusted. Our own words are not: a task may have made them of what it read."""
    if received.quote is None:
        return False
    quoted = db.execute(_MESSAGE, {"chat": received.chat, "platform_id": received.quote.id}).first()
    return quoted is not None and bool(quoted.is_trusted)


def is_heard(db: Connection, chat: str) -> bool:
    """Whether anybody but us was ever taken in here: what is held at the door is not."""
    return db.execute(_HEARD, {"chat": chat}).first() is not None


def not_handed_over(db: Connection, chat: str) -> Sequence[Row[tuple[object, ...]]]:
    """What people wrote in the chat and no run has got yet, in the order in which it was sent."""
    return db.execute(_WAITING, {"chat": chat}).all()


def hand_over(
    db: Connection, group: Group, waiting: Sequence[Row[tuple[object, ...]]], cause: bytes
) -> list[Draft]:
    """The requests that carry all these messages, which are marked with them."""
    drafts: list[Draft] = []
    numbers = [row.number for row in waiting]
    for index, part in enumerate(split(prompt_message(row) for row in waiting)):
        request_id = derived_id(id_time(cause), cause, "run", index)
        marked, numbers = numbers[:len(part)], numbers[len(part):]
        db.execute(_MARK, [{"marked": number, "request_id": request_id} for number in marked])
        run = RunRequested(group=group.folder, chat=group.chat, is_main=group.is_main, messages=tuple(part))
        drafts.append(Draft(f"group:{group.folder}", run, message_id=request_id))
    return drafts


def prompt_message(row: Row[tuple[object, ...]]) -> PromptMessage:
    """A stored message as a run carries it."""
    return PromptMessage(
        id=row.platform_id, sender_name=row.sender_name, sent_ms=row.sent_ms, text=row.text,
        quote=msgspec.msgpack.decode(row.quote, type=Quote | None),
        attachments=msgspec.msgpack.decode(row.attachments, type=tuple[Attachment, ...]),
        sender=f"{channel_of(row.chat)}:{row.sender}", is_trusted=row.is_trusted,
    )
