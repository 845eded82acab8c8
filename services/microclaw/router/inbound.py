"""From a message in a chat to a run of its group.

Every message of a registered chat is stored; when one wakes the group, all messages of the chat that were
not handed over yet go into `run.requested`, oldest first by arrival, and are marked in the same transaction:
each is in exactly one request, whatever is killed or delivered again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection, Engine, Row, bindparam, insert, select, update

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.core.approvals import ChatAnswer, is_owners_word, read_answer
from microclaw.core.channels import shown_name
from microclaw.core.groups import is_conversation
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import ApprovalAnswered, Attachment, MessageReceived, PromptMessage, Quote, RunRequested
from microclaw.core.policy import SenderVerdict, judge_sender
from microclaw.core.prompt import split
from microclaw.core.requests import Group
from microclaw.core.text import is_worth_storing
from microclaw.core.trigger import should_wake, trigger_of
from microclaw.router.chat_commands import ChatCommands, command_in, is_owners
from microclaw.router.registry import Registry
from microclaw.router.senders import Senders
from microclaw.router.tables import chats, messages
from microclaw.store.outbox import Outbox

# Built once: making a statement costs more than running it.
_CHAT = select(chats).where(chats.c.chat == bindparam("chat"))
_ADD_CHAT = insert(chats)
_RENEW_CHAT = update(chats).where(chats.c.chat == bindparam("here"))
_MESSAGE = select(messages.c.number, messages.c.request_id, messages.c.is_own_reply).where(
    messages.c.chat == bindparam("chat"), messages.c.platform_id == bindparam("platform_id")
)
_ADD_MESSAGE = insert(messages)
_RENEW_MESSAGE = update(messages).where(messages.c.number == bindparam("known"))
_MARK = update(messages).where(messages.c.number == bindparam("marked"))
_WAITING = (
    select(messages)
    .where(
        messages.c.chat == bindparam("chat"), messages.c.request_id.is_(None), messages.c.is_own_reply.is_(False)
    )
    .order_by(messages.c.number)
)


class Inbound:
    """Consumer of `message.received`."""

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, registry: Registry, assistant_name: str,
        clock_ms: Callable[[], int], senders: Senders | None = None,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._registry = registry
        self._assistant_name = assistant_name
        self._clock_ms = clock_ms
        self._senders = senders or Senders(None, lambda _trouble: None)
        self._commands = ChatCommands(bus, lambda: {group.folder for group in registry.all()}, clock_ms)

    async def on_message(self, delivery: Delivery) -> list[Draft]:
        """Store one message; returns the runs it causes."""
        cause = delivery.envelope.message_id
        received = delivery.envelope.read(MessageReceived)
        group = self._registry.of_chat(received.chat)
        typed = command_in(received, group)
        # Asked before the database is held: other rooms may take their time.
        answers = await self._commands.drafts(typed, received, group, cause) if typed and group else None
        with self._engine.begin() as db:
            if not self._outbox.seen(db, cause):
                drafts = self._take(db, received, cause) if answers is None else answers
                if answers is not None:
                    note_chat(db, received)
                self._outbox.put(db, cause, drafts, now_ms=self._clock_ms())
        return await self._outbox.with_ack(self._bus, cause)

    def _take(self, db: Connection, received: MessageReceived, cause: bytes) -> list[Draft]:
        if not is_conversation(received.chat):
            return []
        note_chat(db, received)
        group = self._registry.of_chat(received.chat)
        if group is not None and (answer := owners_answer(received, group)):
            # A command to the house, not a word to the agent: neither stored nor handed over.
            return [Draft(
                received.chat, ApprovalAnswered(code=answer.code, answer=answer.answer, chat=received.chat),
                message_id=derived_id(id_time(cause), cause, "approval"),
            )]
        if group is None or not is_worth_storing(received.text, attachments=len(received.attachments)):
            return []
        sender = self._judged(received, group)
        if not sender.stored:
            return []
        is_waiting = store(db, received)
        # The other waiting ones were no reason to wake when they came: only this one can be, so the silence before
        # it is not read until it is needed.
        wakes = is_waiting and sender.allowed and should_wake(
            is_main=group.is_main, requires_trigger=group.requires_trigger,
            trigger=trigger_of(group.trigger, self._assistant_name), texts=[received.text],
        )
        return hand_over(db, group, not_handed_over(db, received.chat), cause) if wakes else []

    def _judged(self, received: MessageReceived, group: Group) -> SenderVerdict:
        """What the owner's list says of the sender; of the owner, and of what we said ourselves, it says nothing."""
        if received.is_own_reply or is_owners(received, group):
            return SenderVerdict(allowed=True, stored=True)
        return judge_sender(self._senders.rules(), received.chat, received.sender)


def owners_answer(received: MessageReceived, group: Group) -> ChatAnswer | None:
    """The owner's `/approve` or `/deny`; None = it is a message like any other."""
    answer = read_answer(received.text)
    theirs = is_owners_word(
        in_main_chat=group.is_main, is_group=received.is_group, from_me=received.from_me,
        is_own_reply=received.is_own_reply, is_edit=received.is_edit, is_forwarded=received.is_forwarded,
    )
    return answer if theirs else None


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


def store(db: Connection, received: MessageReceived) -> bool:
    """Keep the message; the same platform id again (an edit, a repeat) only renews its content.

    Returns whether it is a person's and no run has got it yet.
    """
    content = {
        "text": received.text,
        "quote": msgspec.msgpack.encode(received.quote),
        "attachments": msgspec.msgpack.encode(received.attachments),
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


def not_handed_over(db: Connection, chat: str) -> Sequence[Row[tuple[object, ...]]]:
    """What people wrote in the chat and no run has got yet, in the order of arrival."""
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
    )
