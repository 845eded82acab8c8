"""From a message in a chat to a run of its group.

Every message of a registered chat is stored; when one wakes the group, all messages of the chat that were
not handed over yet go into `run.requested`, oldest first by arrival, and are marked in the same transaction:
each is in exactly one request, whatever is killed or delivered again.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert, select

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.core.approvals import read_answer
from microclaw.core.chat_commands import read_command
from microclaw.core.flood import LATE_MS
from microclaw.core.groups import channel_of, is_chat, is_conversation
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import ApprovalAnswered, ChatsNamed, MessageReceived, ReplyRequested
from microclaw.core.loops import Turn
from microclaw.core.pairing import read_typed
from microclaw.core.people import Entry, Role, entry, may_command, may_decide, sender_of, shown
from microclaw.core.policy import SenderVerdict, judge_sender
from microclaw.core.requests import Group
from microclaw.core.settings import Model
from microclaw.core.text import is_worth_storing
from microclaw.core.trigger import should_wake, trigger_of
from microclaw.router.awaiting import is_the_answer
from microclaw.router.chat_commands import ChatCommands
from microclaw.router.door import Door
from microclaw.router.messages import hand_over, name_chat, not_handed_over, note_chat, store
from microclaw.router.models import Models
from microclaw.router.pace import Paces
from microclaw.router.people import People
from microclaw.router.registry import Registry
from microclaw.router.restarting import Restarting
from microclaw.router.senders import Senders
from microclaw.router.tables import late
from microclaw.store.outbox import Outbox


class Inbound:
    """Consumer of `message.received`."""

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, registry: Registry, assistant_name: str,
        clock_ms: Callable[[], int], senders: Senders | None = None, *, people: People | None = None,
        door: Door | None = None, paces: Paces | None = None, model: Model | None = None,
        restarting: Restarting | None = None,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._registry = registry
        self._assistant_name = assistant_name
        self._clock_ms = clock_ms
        self._senders = senders or Senders(None, lambda _trouble: None)
        self._people = people or People(engine, registry, clock_ms)
        self._door = door or Door(engine, outbox, bus, registry, self._people, assistant_name, clock_ms)
        self._paces = paces or Paces(clock_ms)
        self._commands = ChatCommands(
            bus, lambda: {group.folder for group in registry.all()}, clock_ms, groups=registry.groups_folder,
            model=model or Model(), models=Models(engine), restarting=restarting,
        )
        #: A transaction let somebody in: what the tables hold is to be read again after it.
        self._changed = False

    async def on_message(self, delivery: Delivery) -> list[Draft]:
        """Store one message; returns the runs it causes."""
        cause = delivery.envelope.message_id
        received = delivery.envelope.read(MessageReceived)
        group = self._registry.of_chat(received.chat)
        role = self._people.role(received, group)
        typed = read_command(received.text) if group is not None and may_command(received, role) else None
        # Asked before the database is held: other rooms may take their time.
        answer = await self._commands.answer(typed, received, group, cause, role) if typed and group else None
        try:
            with self._engine.begin() as db:
                if not self._outbox.seen(db, cause):
                    if answer is None:
                        drafts = self._take(db, received, cause)
                    else:
                        drafts = answer.drafts
                        note_chat(db, received)
                        answer.change(db)
                    self._outbox.put(db, cause, drafts, now_ms=self._clock_ms())
        finally:
            if self._changed:
                self._changed = False
                self._door.reload()
        return await self._outbox.with_ack(self._bus, cause)

    async def on_named(self, delivery: Delivery) -> list[Draft]:
        """A connector tells what its groups are called; of another channel's it is not believed."""
        channel = channel_of(delivery.envelope.session_id)
        named = [
            each for each in delivery.envelope.read(ChatsNamed).chats
            if is_chat(each.chat) and is_conversation(each.chat) and channel_of(each.chat) == channel and each.name
        ]
        with self._engine.begin() as db:
            for each in named:
                name_chat(db, each)
        return []

    def wake_late(self) -> list[bytes]:
        """Hand over, once each, what came too fast to wake its group. Returns the causes to flush."""
        now = self._clock_ms()
        causes = []
        with self._engine.begin() as db:
            for row in db.execute(select(late).where(late.c.due_ms <= now)).all():
                db.execute(delete(late).where(late.c.chat == row.chat))
                if (group := self._registry.of_chat(row.chat)) is not None:
                    cause = derived_id(id_time(row.cause), row.cause, "late")
                    self._outbox.add(
                        db, cause, hand_over(db, group, not_handed_over(db, row.chat), cause), now_ms=now
                    )
                    causes.append(cause)
        return causes

    # --- inside -------------------------------------------------------------------------------------------------

    def _take(self, db: Connection, received: MessageReceived, cause: bytes) -> list[Draft]:
        if not is_conversation(received.chat):
            return []
        note_chat(db, received)
        group = self._registry.of_chat(received.chat)
        role = self._people.role(received, group)
        match entry(received, role, group, is_personal=self._people.is_personal(group)):
            case Entry.HOLD:
                return self._door.hold(db, received, cause)
            case Entry.JOIN if (user := self._people.of(received)) is not None:
                self._changed = True
                group = self._registry.open_chat(db, received.chat, user.folder, received.sender_name)
            case Entry.SERVE:
                pass
            case _:
                return []
        if group is None:
            return []
        # A command to the house, not a word to the agent: neither stored nor handed over.
        if may_decide(received, role, group):
            if (answer := read_answer(received.text)) is not None:
                return [Draft(
                    received.chat, ApprovalAnswered(code=answer.code, answer=answer.answer, chat=received.chat),
                    message_id=derived_id(id_time(cause), cause, "approval"),
                )]
            if (typed := read_typed(received.text)) is not None:
                self._changed = True
                return self._door.typed(db, typed, received, cause)
        if not is_worth_storing(received.text, attachments=len(received.attachments)):
            return []
        return self._keep(db, received, group, role, cause)

    def _keep(
        self, db: Connection, received: MessageReceived, group: Group, role: Role | None, cause: bytes
    ) -> list[Draft]:
        """Store it, and wake the group if it is a reason to."""
        is_owner = role is Role.OWNER
        sender = self._judged(received, role)
        if not sender.stored:
            return []
        if not self._paces.kept(received, is_owner=is_owner):
            text = "writes faster than I can take it in: what is beyond the bound is not kept"
            return self._tell_owner(db, received, text, cause)
        is_waiting = store(db, received, role)
        # The other waiting ones were no reason to wake when they came: only this one can be, so the silence before
        # it is not read until it is needed.
        # An answer is taken as one even where the message would wake the group anyway.
        is_answer = is_waiting and sender.allowed and not received.from_bot and is_the_answer(
            db, received.chat, now_ms=self._clock_ms()
        )
        wakes = is_waiting and sender.allowed and (is_answer or should_wake(
            is_main=group.is_main, requires_trigger=group.requires_trigger and not received.is_for_us,
            trigger=trigger_of(group.trigger, self._assistant_name), texts=[received.text],
        ))
        if not wakes:
            return []
        turn = self._paces.turn(received, is_owner=is_owner)
        if turn is Turn.STOP:
            text = "and I answer each other without end: I stop answering until a person writes"
            return self._tell_owner(db, received, text, cause)
        if turn is Turn.STOPPED:
            return []
        if not self._paces.wakes(received, is_owner=is_owner):
            if db.execute(select(late.c.chat).where(late.c.chat == received.chat)).first() is None:
                db.execute(insert(late), {
                    "chat": received.chat, "cause": cause, "due_ms": self._clock_ms() + LATE_MS,
                })
            return []
        return hand_over(db, group, not_handed_over(db, received.chat), cause)

    def _judged(self, received: MessageReceived, role: Role | None) -> SenderVerdict:
        """What the owner's list says of the sender; of the owner, and of what we said ourselves, it says nothing."""
        if received.is_own_reply or role is Role.OWNER:
            return SenderVerdict(allowed=True, stored=True)
        return judge_sender(self._senders.rules(), received.chat, received.sender)

    def _tell_owner(self, db: Connection, received: MessageReceived, what: str, cause: bytes) -> list[Draft]:
        sender, owner = sender_of(received), self._registry.owner_chat(db)
        if not owner or not self._paces.is_news(sender):
            return []
        text = f"{shown(received.sender_name)} ({sender}) in {shown(received.chat_name) or received.chat} {what}."
        return [Draft(
            owner, ReplyRequested(chat=owner, text=text, origin="notice"),
            message_id=derived_id(id_time(cause), cause, "owner"),
        )]
