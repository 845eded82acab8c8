"""Strangers: what they write is held, they get a code, and the owner's answer to it lets them in or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from microclaw.bus.api import Bus, Draft
from microclaw.core import pairing as core
from microclaw.core.approvals import CODE_BYTES, code_from, read_code, shown_code
from microclaw.core.groups import channel_of
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import MessageReceived, ReplyRequested
from microclaw.core.pairing import Pairing, Refused, Typed
from microclaw.core.people import LOCAL_CHANNELS, Rejected, Role, User, Wanted, gives_codes, sender_of, shown
from microclaw.core.people_requests import AnswerPairing, Paired, PairingRow, Pairings, PairingsAsked
from microclaw.core.requests import Failed
from microclaw.core.text import is_worth_storing
from microclaw.router import commands
from microclaw.router.messages import hand_over, not_handed_over, store
from microclaw.router.people import People
from microclaw.router.registry import Registry
from microclaw.router.tables import held, pairings, wrong_codes
from microclaw.router.trail import audit_draft
from microclaw.store.outbox import Outbox

#: Rows of one list.
ROWS_MAX = 200


class Door:
    """Who waits outside."""

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, registry: Registry, people: People, assistant_name: str,
        clock_ms: Callable[[], int], *, unknown: Mapping[str, str] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`unknown`: the configuration's word on channels (`core.people.gives_codes`)."""
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._registry = registry
        self._people = people
        self._assistant_name = assistant_name
        self._clock_ms = clock_ms
        self._unknown = unknown or {}
        self._random = random

    def hold(self, db: Connection, received: MessageReceived, cause: bytes) -> list[Draft]:
        """A stranger's message, in the transaction that takes it in; returns what the stranger and the owner are
        told."""
        channel, sender, now = channel_of(received.chat), sender_of(received), self._clock_ms()
        if not gives_codes(channel, self._unknown):
            return []
        if not is_worth_storing(received.text, attachments=len(received.attachments)):
            return []
        mine = [_pairing(row) for row in db.execute(select(pairings).where(pairings.c.sender == sender))]
        pending = (pairings.c.channel == channel) & (pairings.c.state == "pending") & (pairings.c.expires_ms > now)
        verdict = core.at_door(
            mine, _count(db, pairings, pending), _count(db, held, held.c.sender == sender),
            _count(db, held, held.c.channel == channel), now_ms=now,
        )
        if verdict.held:
            db.execute(insert(held), {
                "channel": channel, "sender": sender, "message": msgspec.msgpack.encode(received), "held_ms": now,
            })
        return self._ask(db, received, cause, now) if verdict.asks else []

    def typed(self, db: Connection, wanted: Typed, received: MessageReceived, cause: bytes) -> list[Draft]:
        """The owner's `/pairing …` in a chat; returns what it causes, the owner's answer included."""
        if wanted.answer is None:
            return [_said(received.chat, _list_text(self.rows(db)), cause, "pairing")]
        # Where the owner is not beyond doubt nobody is made another owner: no role is given here.
        question = AnswerPairing(
            command_id=cause.hex(), channel=wanted.channel, code=wanted.code, answer=wanted.answer,
        )
        actor = f"{sender_of(received)}"
        answer, drafts = self._answer(db, question, actor, cause, may_make_owners=_is_local(received))
        text = answer.reason if isinstance(answer, Failed) else _answer_text(answer, question)
        return [*drafts, _said(received.chat, text, cause, "pairing")]

    async def on_list(self, question: PairingsAsked, _asker: str) -> Pairings:
        """Answer `pairing.list`."""
        with self._engine.begin() as db:
            return Pairings(rows=self.rows(db, everything=question.all))

    async def on_answer(self, wanted: AnswerPairing, asker: str) -> Paired | Failed:
        """Answer `pairing.answer`."""
        if asker != "cli":
            return Failed(reason=f"{asker} may not let anybody in: use `microclaw pairing`", code="denied")
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        cause = derived_id(0, "pairing.answer", wanted.command_id)
        try:
            with self._engine.begin() as db:
                answer: Paired | Failed | None = commands.answered(db, wanted.command_id, Paired)
                if answer is None:
                    answer, drafts = self._answer(db, wanted, asker, cause, may_make_owners=True)
                    self._outbox.add(db, cause, drafts, now_ms=self._clock_ms())
                    if isinstance(answer, Paired):
                        commands.remember(db, wanted.command_id, answer, now_ms=self._clock_ms())
        finally:
            self.reload()
        await self._outbox.flush(self._bus, cause)
        return answer

    def rows(self, db: Connection, *, everything: bool = False) -> tuple[PairingRow, ...]:
        """The codes that wait, newest first; `everything` = also what became of the others."""
        now = self._clock_ms()
        query = select(pairings).order_by(pairings.c.asked_ms.desc(), pairings.c.code).limit(ROWS_MAX)
        if not everything:
            query = query.where(pairings.c.state == "pending", pairings.c.expires_ms > now)
        return tuple(self._row(db, row, now) for row in db.execute(query).all())

    def reload(self) -> None:
        """After a transaction in which somebody was let in or put out."""
        self._registry.reload()
        self._people.reload()

    def tidy(self) -> None:
        """Drop what nobody will ask for: old held messages, old codes."""
        now = self._clock_ms()
        with self._engine.begin() as db:
            db.execute(delete(held).where(held.c.held_ms < now - core.HELD_MS))
            db.execute(delete(pairings).where(pairings.c.asked_ms < now - core.KEPT_MS, pairings.c.state != "approved"))
            db.execute(delete(wrong_codes).where(wrong_codes.c.tried_ms < now - core.LIFE_MS))

    # --- inside -------------------------------------------------------------------------------------------------

    def _ask(self, db: Connection, received: MessageReceived, cause: bytes, now: int) -> list[Draft]:
        channel, sender = channel_of(received.chat), sender_of(received)
        code = code_from(self._random(CODE_BYTES))
        db.execute(insert(pairings), {
            "code": code, "channel": channel, "sender": sender, "sender_name": shown(received.sender_name),
            "chat": received.chat, "state": "pending", "asked_ms": now, "expires_ms": now + core.LIFE_MS,
        })
        told = [_said(received.chat, core.greeting(self._assistant_name, channel, code), cause, "code")]
        if owner := self._registry.owner_chat(db):
            news = core.announcement(channel, sender, received.sender_name, code)
            told.append(_said(owner, news, cause, "announcement"))
        return [*told, audit_draft(cause, sender, "pairing.ask", f"{channel} {shown_code(code)}")]

    def _answer(
        self, db: Connection, wanted: AnswerPairing, actor: str, cause: bytes, *, may_make_owners: bool
    ) -> tuple[Paired | Failed, list[Draft]]:
        now = self._clock_ms()
        code = read_code(wanted.code) or ""
        here = (pairings.c.channel == wanted.channel) & (pairings.c.code == code)
        row = db.execute(select(pairings).where(here)).first()
        lately = (wrong_codes.c.channel == wanted.channel) & (wrong_codes.c.tried_ms > now - core.LIFE_MS)
        state = core.answered(
            _pairing(row) if row is not None else None, wanted.answer, _count(db, wrong_codes, lately), now_ms=now
        )
        subject = f"{wanted.channel} {shown_code(code) if row is not None else 'a wrong code'}"
        if row is None or isinstance(state, Refused):
            if row is None:
                db.execute(insert(wrong_codes), {"channel": wanted.channel, "tried_ms": now})
            reason = state.reason if isinstance(state, Refused) else "there is no such code"
            refusal = Failed(reason=reason, code="conflict" if row is not None else "not_found")
            return refusal, [audit_draft(cause, actor, f"pairing.{wanted.answer}", subject, "failed")]
        user, drafts, count = self._known(row), [], 0
        if wanted.answer == "approve":
            admitted = self._admit(db, row, wanted, may_make_owners=may_make_owners)
            if isinstance(admitted, Failed):
                return admitted, [audit_draft(cause, actor, "pairing.approve", subject, "failed")]
            user = admitted
            runs, count = self._let_in(db, row, user, cause)
            drafts = [_said(row.chat, core.WELCOME, cause, "welcome"), *runs]
        elif user is not None:
            self._people.forget(db, user, (row.sender,))
            user = None
        db.execute(update(pairings).where(here).values(state=state))
        # Neither what was handed over nor what was said by somebody who is kept out is needed any more.
        db.execute(delete(held).where(held.c.sender == row.sender))
        answered = Paired(
            row=msgspec.structs.replace(self._row(db, row, now), state=state, held=0), user=user, handed_over=count,
        )
        return answered, [*drafts, audit_draft(cause, actor, f"pairing.{wanted.answer}", f"{row.sender} by {subject}")]

    def _admit(
        self, db: Connection, row: Row[tuple[object, ...]], wanted: AnswerPairing, *, may_make_owners: bool
    ) -> User | Failed:
        known = next((each for each in self._people.all() if each.name == wanted.user), None)
        if not may_make_owners and Role.OWNER in (wanted.role, known.role if known else None):
            return Failed(reason="an owner is made with `microclaw pairing approve … --owner` alone", code="denied")
        admitted = self._people.admit(db, Wanted(
            sender=row.sender, shown_name=row.sender_name, role=wanted.role, user=wanted.user, folder=wanted.folder,
        ))
        return Failed(reason=admitted.reason, code="conflict") if isinstance(admitted, Rejected) else admitted

    def _let_in(
        self, db: Connection, row: Row[tuple[object, ...]], user: User, cause: bytes
    ) -> tuple[list[Draft], int]:
        """What was held goes to the user's group: each message once, in the order in which they came."""
        waiting = db.execute(select(held).where(held.c.sender == row.sender).order_by(held.c.number)).all()
        messages = [msgspec.msgpack.decode(each.message, type=MessageReceived) for each in waiting]
        drafts: list[Draft] = []
        for chat in dict.fromkeys([row.chat, *(each.chat for each in messages)]):
            group = self._registry.open_chat(db, chat, user.folder, row.sender_name)
            of_chat = [each for each in messages if each.chat == chat]
            for each in of_chat:
                store(db, each)
            if of_chat:
                drafts += hand_over(db, group, not_handed_over(db, chat), derived_id(id_time(cause), cause, chat))
        return drafts, len(messages)

    def _known(self, row: Row[tuple[object, ...]]) -> User | None:
        return next((each for each in self._people.all() if row.sender in each.senders), None)

    def _row(self, db: Connection, row: Row[tuple[object, ...]], now: int) -> PairingRow:
        state: Literal["pending", "approved", "denied", "revoked", "expired"] = row.state
        if state == "pending" and now >= row.expires_ms:
            state = "expired"
        return PairingRow(
            channel=row.channel, code=row.code, sender=row.sender, sender_name=row.sender_name, chat=row.chat,
            state=state, asked_ms=row.asked_ms, expires_ms=row.expires_ms,
            held=_count(db, held, held.c.sender == row.sender),
        )


def _is_local(received: MessageReceived) -> bool:
    return channel_of(received.chat) in LOCAL_CHANNELS


def _count(db: Connection, table: object, where: object) -> int:
    return db.execute(select(func.count()).select_from(table).where(where)).scalar_one()  # type: ignore[arg-type]


def _pairing(row: Row[tuple[object, ...]]) -> Pairing:
    return Pairing(row.state, row.asked_ms, row.expires_ms)


def _said(chat: str, text: str, cause: bytes, part: str) -> Draft:
    return Draft(
        chat, ReplyRequested(chat=chat, text=text, origin="notice"),
        message_id=derived_id(id_time(cause), cause, part),
    )


def _list_text(rows: tuple[PairingRow, ...]) -> str:
    lines = [
        f"{row.channel} {shown_code(row.code)}: {shown(row.sender_name)} ({row.sender}), {row.held} held"
        for row in rows
    ]
    return "\n".join(["Nobody waits to be let in." if not rows else "These wait to be let in:", *lines])


def _answer_text(paired: Paired, wanted: AnswerPairing) -> str:
    who = f"{shown(paired.row.sender_name)} ({paired.row.sender})"
    if wanted.answer == "approve" and paired.user is not None:
        return f"{who} is let in as {paired.user.name} ({paired.user.role}), in group {paired.user.folder}."
    return f"{who} is kept out." if wanted.answer == "deny" else f"{who} is a stranger again."
