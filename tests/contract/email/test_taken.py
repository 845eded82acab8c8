"""A mail is answered where it came from, whenever the connector is killed: over its real database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.contract.email.test_email import ANN, SERVER, mail

from microclaw.bus.api import Bus, Draft
from microclaw.channel import tables
from microclaw.channel.inbound import Inbound as Kit
from microclaw.channel.notes import Notes
from microclaw.core.channel_settings import Email
from microclaw.core.kinds import MessageReceived
from microclaw.email.imap import Fetched, Mailbox
from microclaw.email.inbound import Inbound, OwnThread, Place
from microclaw.email.threads import Threads
from microclaw.store.engine import engine_for


class KilledError(Exception):
    """The process is no more."""


class Connector:
    """One life of the way in, with a mailbox of one mail."""

    def __init__(self, path: Path, publish: Callable[[Draft], None]) -> None:
        self.engine = engine_for(path)
        tables.metadata.create_all(self.engine)
        self.notes = Notes(self.engine, tables.notes, lambda: 1)
        self.threads = Threads(self.notes)
        self.troubles: list[str] = []

        async def said(*drafts: Draft) -> None:
            for draft in drafts:
                publish(draft)

        channel = SimpleNamespace(
            inbound=Kit(cast(Bus, SimpleNamespace(publish=said)), self.notes), notes=self.notes, media=None,
            service=SimpleNamespace(trouble=self.troubles.append),
        )
        self._in = Inbound(cast(Any, channel), Email(authserv_id=SERVER), self.threads, lambda: 1)

    async def looks(self, marks: Callable[[], None] = lambda: None) -> None:
        """`marks`: what happens when the mail is to be marked as read."""
        raw = mail("hello", number=1)
        fetched = Fetched(1, datetime(2025, 11, 3, tzinfo=UTC), raw, len(raw), whole=True)
        box = SimpleNamespace(new_since=lambda uid: [fetched] if uid < 1 else [], mark_read=lambda _uids: marks())
        thread = OwnThread()
        try:
            cursor = self.notes.get("cursor", "folder")
            place = Place(7, 1 if '"uid":1' in cursor else 0, "2025-11-01")
            await self._in._take_new(cast(Mailbox, box), place, thread)
        finally:
            thread.end()
            self.engine.dispose()


def dies(*_: object) -> None:
    raise KilledError


async def test_a_mail_can_be_answered_as_soon_as_the_journal_has_it(tmp_path: Path) -> None:
    """An answer may be quicker than our next commit; and killed before that, we would never know whom to answer."""
    heard: list[MessageReceived] = []
    known: list[object] = []

    def publish(draft: Draft) -> None:
        assert isinstance(draft.payload, MessageReceived)
        heard.append(draft.payload)
        known.append(life.threads.of(draft.payload.chat))

    life = Connector(tmp_path / "email.db", publish)
    await life.looks()
    assert len(heard) == 1 and heard[0].text == "Subject: Plans\n\nhello"
    assert [getattr(thread, "address", None) for thread in known] == [ANN]


async def test_a_mail_that_was_taken_is_known_though_we_were_killed_right_after(tmp_path: Path) -> None:
    heard: list[bytes | None] = []
    path = tmp_path / "email.db"
    with pytest.raises(KilledError):
        await Connector(path, lambda draft: heard.append(draft.message_id)).looks(marks=dies)
    again = Connector(path, lambda draft: heard.append(draft.message_id))
    assert again.threads.is_known("1@friends.example", ANN)
    await again.looks()
    assert len(heard) == 1


async def test_killed_before_the_journal_has_it_the_mail_comes_again_as_it_was(tmp_path: Path) -> None:
    heard: list[MessageReceived] = []
    path = tmp_path / "email.db"
    with pytest.raises(KilledError):
        await Connector(path, dies).looks()
    await Connector(path, lambda draft: heard.append(cast(MessageReceived, draft.payload))).looks()
    assert [each.text for each in heard] == ["Subject: Plans\n\nhello"]
