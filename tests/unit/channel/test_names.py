"""The names of groups: each told once, and again when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from microclaw.bus.api import Bus, Draft, Receipt
from microclaw.bus.errors import Refused
from microclaw.channel import names as names_module
from microclaw.channel import tables
from microclaw.channel.link import Link
from microclaw.channel.names import GroupNames
from microclaw.channel.notes import Notes
from microclaw.core.channels import NAMES_EVERY_MS
from microclaw.core.kinds import ChatsNamed
from microclaw.store.engine import engine_for


class Desk:
    """A connector's names over a real database, and what was published."""

    def __init__(self, folder: Path) -> None:
        self.now = 10 * NAMES_EVERY_MS
        self.told: list[dict[str, str]] = []
        self.is_refused = False
        self.asked = 0
        self.found: Mapping[str, str | None] = {"chirp:a": "Aviary"}
        self.engine = engine_for(folder / "chirp.db")
        tables.metadata.create_all(self.engine)
        self.start()

    def start(self) -> None:
        notes = Notes(self.engine, tables.notes, lambda: self.now)
        self.names = GroupNames("chirp", cast(Bus, self), notes, lambda: self.now)

    async def publish(self, draft: Draft) -> list[Receipt]:
        if self.is_refused:
            raise Refused("denied", "chats.named")
        assert isinstance(draft.payload, ChatsNamed)
        assert draft.session_id == draft.payload.chats[0].chat
        self.told.append({each.chat: each.name for each in draft.payload.chats})
        return []

    async def fetch(self) -> Mapping[str, str | None]:
        self.asked += 1
        return self.found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.engine.dispose()


async def test_a_name_is_told_once_and_again_when_it_changes_whatever_was_restarted(desk: Desk) -> None:
    await desk.names.tell({"chirp:a": "Aviary", "chirp:b": "Barn"})
    desk.start()
    await desk.names.tell({"chirp:a": "Aviary", "chirp:b": "Big barn"})
    assert desk.told == [{"chirp:a": "Aviary", "chirp:b": "Barn"}, {"chirp:b": "Big barn"}]


async def test_what_has_no_name_or_is_no_chat_of_this_channel_is_left_out(desk: Desk) -> None:
    names = {"chirp:a": None, "chirp:b": "", "other:c": "Crows", "chirp": "x", "chirp:d": "D" * 999}
    told = await desk.names.tell(names)
    assert told == {"chirp:d": "D" * 200}
    assert desk.told == [told]


async def test_many_names_go_out_in_parts(desk: Desk) -> None:
    names = {f"chirp:{number}": f"Nest {number}" for number in range(names_module.BATCH_MAX + 1)}
    assert await desk.names.tell(names) == names
    assert [len(each) for each in desk.told] == [names_module.BATCH_MAX, 1]


async def test_a_broker_that_refuses_names_ends_nothing(desk: Desk) -> None:
    desk.is_refused = True
    assert await desk.names.tell({"chirp:a": "Aviary"}) == {}
    desk.is_refused = False
    assert await desk.names.tell({"chirp:a": "Aviary"}) == {"chirp:a": "Aviary"}


async def test_a_platform_is_asked_once_a_day_and_at_once_where_its_library_failed(desk: Desk) -> None:
    async def breaks() -> Mapping[str, str | None]:
        raise RuntimeError("library")

    assert await desk.names.sync(breaks) == {}
    assert await desk.names.sync(desk.fetch) == {"chirp:a": "Aviary"}
    desk.start()
    desk.now += NAMES_EVERY_MS - 1
    await desk.names.sync(desk.fetch)
    assert desk.asked == 1
    await desk.names.sync(desk.fetch, force=True)
    desk.now += NAMES_EVERY_MS
    await desk.names.sync(desk.fetch)
    assert desk.asked == 3 and len(desk.told) == 1


async def test_nobody_is_asked_before_the_platform_is_there(desk: Desk) -> None:
    link = Link("chirp", lambda: desk.now)
    keeping = asyncio.create_task(desk.names.keep(link, desk.fetch))
    await asyncio.sleep(0)
    assert desk.asked == 0
    link.connected("bird")
    async with asyncio.timeout(30):
        while not desk.told:
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert desk.asked == 1
