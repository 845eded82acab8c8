"""The router's inbound and registry over a real database file, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
from sqlalchemy import Engine

from microclaw.bus.api import Bus, Delivery, Draft, Receipt
from microclaw.bus.envelope import VERSION, Envelope
from microclaw.core.ids import derived_id
from microclaw.core.kinds import KINDS, MessageReceived, ReplyRequested, RunRequested
from microclaw.core.requests import Failed, Group, GroupAnswer, Groups, GroupsAsked, RegisterGroup
from microclaw.router.deliveries import Deliveries
from microclaw.router.door import Door
from microclaw.router.inbound import Inbound
from microclaw.router.pace import Paces
from microclaw.router.people import People
from microclaw.router.registry import Registry
from microclaw.router.tables import inbox, metadata, outbox
from microclaw.store.engine import engine_for
from microclaw.store.outbox import Outbox


class Heard:
    """A bus that keeps what it is given."""

    def __init__(self, play: RouterPlay) -> None:
        self._play = play

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        self._play.publish(list(drafts))
        return [Receipt(draft.message_id or b"", 1, duplicate=False) for draft in drafts]


class RouterPlay:
    """What it would publish is in `published`."""

    def __init__(self, folder: Path, assistant_name: str = "Andy") -> None:
        self.folder = folder
        self.assistant_name = assistant_name
        self.now = 1_700_000_000_000
        #: message id → payload: the broker knows repeats.
        self.published: dict[bytes, Any] = {}
        self.numbers = 0
        self.engine: Engine | None = None
        engine = engine_for(folder / "router.db")
        metadata.create_all(engine)
        engine.dispose()
        self.start()

    def start(self) -> None:
        """As after a kill -9."""
        if self.engine is not None:
            self.engine.dispose()
        self.engine = engine_for(self.folder / "router.db")
        self.outbox = Outbox(self.engine, outbox, inbox)
        self.registry = Registry(self.engine, self.folder / "groups", lambda: self.now)
        bus = cast(Bus, Heard(self))
        clock = lambda: self.now  # noqa: E731
        self.people = People(self.engine, self.registry, clock)
        self.door = Door(
            self.engine, self.outbox, bus, self.registry, self.people, self.assistant_name, clock,
        )
        self.paces = Paces(clock)
        self.inbound = Inbound(
            self.engine, self.outbox, bus, self.registry, self.assistant_name, clock, people=self.people,
            door=self.door, paces=self.paces,
        )
        self.deliveries = Deliveries(self.engine, self.outbox, bus, self.registry, self.paces, clock)
        self.publish(self.outbox.pending())

    def stop(self) -> None:
        if self.engine is not None:
            self.engine.dispose()

    def publish(self, drafts: list[Draft]) -> list[RunRequested]:
        new = []
        for draft in drafts:
            assert draft.message_id is not None
            assert isinstance(draft.payload, bytes)
            if draft.message_id not in self.published:
                kind = KINDS[msgspec.msgpack.decode(draft.payload)["kind"]]
                payload = msgspec.msgpack.decode(draft.payload, type=kind)
                self.published[draft.message_id] = payload
                if isinstance(payload, RunRequested):
                    new.append(payload)
        return new

    async def register(self, chat: str, folder: str, **facts: Any) -> Group | Failed:
        self.numbers += 1
        wanted = RegisterGroup(**({
            "command_id": f"r{self.numbers}", "chat": chat, "folder": folder, "name": folder.title(),
        } | facts))
        answer = await self.registry.on_register(wanted, "cli")
        return answer.group if isinstance(answer, GroupAnswer) else answer

    async def hears(self, received: MessageReceived, *, dies: bool = False) -> list[RunRequested]:
        """A message comes; the runs it causes. `dies`: killed after the commit, before anything was published."""
        drafts = await self.inbound.on_message(delivery_of(received))
        if dies:
            self.start()
            return [each for each in self.published.values() if isinstance(each, RunRequested)][-1:]
        return self.publish(drafts)

    def runs(self) -> list[RunRequested]:
        """All runs that were caused, in order."""
        return [each for each in self.published.values() if isinstance(each, RunRequested)]

    def said(self, chat: str = "") -> list[str]:
        """What the house said in a chat (in all), in order."""
        replies = [each for each in self.published.values() if isinstance(each, ReplyRequested)]
        return [reply.text for reply in replies if chat in ("", reply.chat)]

    async def groups(self) -> Groups:
        return await self.registry.on_list(GroupsAsked(), "cli")


def delivery_of(received: MessageReceived) -> Delivery:
    """As its connector publishes it: the platform's id names it, an edit is another message."""
    message_id = derived_id(received.sent_ms, received.chat, received.platform_id, received.text)
    return Delivery(envelope_of(received, received.chat, message_id), 1, None)


def envelope_of(payload: msgspec.Struct | bytes, session: str, message_id: bytes, ts_ms: int = 0) -> Envelope:
    raw = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return Envelope(
        v=VERSION, seq=1, ts_ms=ts_ms, source="test", device_id="", session_id=session, message_id=message_id,
        payload=msgspec.Raw(raw),
    )
