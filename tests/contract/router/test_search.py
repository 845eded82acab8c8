"""Past messages are found by their words, at once and by nobody who may not see them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.contract.processes import ask, installation
from tests.contract.router.router_play import RouterPlay
from tests.contract.router.test_router import message, register

from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Failed, FoundMessages, ImportMessages, SearchMessages
from microclaw.core.search import HITS_MAX
from microclaw.router.history import History
from microclaw.router.searching import Searching


def said(number: int, text: str, chat: str = "wa:fam", **more: object) -> MessageReceived:
    return MessageReceived(**({
        "chat": chat, "platform_id": f"m{number}", "sender": "ann", "sender_name": "Ann", "text": text,
        "sent_ms": number,
    } | more))


class Scene:
    """A family, a club, and what was written there."""

    def __init__(self, folder: Path) -> None:
        self.play = RouterPlay(folder)

    @classmethod
    async def made(cls, folder: Path) -> Scene:
        scene = cls(folder)
        await scene.play.register("wa:fam", "fam")
        await scene.play.register("wa:club", "club")
        for number, text in enumerate((
            "Pizza on Friday?", "Die Straße nach Zürich", "ピザを食べたい", 'he said "red wine" and OR',
            "100% sure_thing",
        ), 1):
            await scene.play.hears(said(number, text))
        await scene.play.hears(said(1, "pizza for the club", "wa:club"))
        return scene

    async def find(self, query: str, **more: object) -> FoundMessages | Failed:
        assert self.play.engine is not None
        wanted = SearchMessages(**({"query": query, "viewer": "fam"} | more))
        return await Searching(self.play.engine, self.play.registry).on_search(wanted, "sandbox")

    async def texts(self, query: str, **more: object) -> list[str]:
        found = await self.find(query, **more)
        assert isinstance(found, FoundMessages), found
        return [row.text for row in found.rows]


@pytest.mark.parametrize(("query", "numbers"), [
    ("pizza", [1]), ("PIZZ", [1]), ("friday pizza", [1]), ("friday wine", []), ("zurich", [2]), ("Zürich", [2]),
    ("ピザ", [3]), ("食べ", [3]), ('"red wine"', [4]), ('"wine red"', []), ("OR", [4]), ("100%", [5]), ("sure", [5]),
    ("ann wine", [4]), ("' OR 1=1 --", []),
])
async def test_words_are_found_whatever_their_case_accents_and_script(
    tmp_path: Path, query: str, numbers: list[int]
) -> None:
    scene = await Scene.made(tmp_path)
    found = await scene.find(query)
    assert isinstance(found, FoundMessages)
    assert [row.sent_ms for row in found.rows] == numbers
    assert (found.searched, found.newest_ms) == (5, 5)


async def test_a_group_finds_its_own_chats_messages_main_and_the_owner_all(tmp_path: Path) -> None:
    scene = await Scene.made(tmp_path)
    assert await scene.texts("pizza") == ["Pizza on Friday?"]
    assert await scene.texts("pizza", chat="wa:fam") == ["Pizza on Friday?"]
    denied = [await scene.find("pizza", chat=chat) for chat in ("wa:club", "wa:nowhere")]
    assert denied[0] == denied[1] and isinstance(denied[0], Failed) and denied[0].code == "denied"
    assert await scene.find("pizza", viewer="stranger") == FoundMessages(rows=(), searched=0)
    for viewer in ({"viewer": "main", "viewer_is_main": True}, {"viewer": ""}):
        assert await scene.texts("pizza", **viewer) == ["pizza for the club", "Pizza on Friday?"]
        assert await scene.texts("pizza", chat="wa:club", **viewer) == ["pizza for the club"]


async def test_pain37_the_index_is_never_behind_an_edit_an_import_a_deletion_or_a_kill(tmp_path: Path) -> None:
    scene = await Scene.made(tmp_path)
    play = scene.play
    await play.hears(said(1, "Sushi on Friday?", is_edit=True))
    assert (await scene.texts("pizza"), await scene.texts("sushi")) == ([], ["Sushi on Friday?"])
    assert play.engine is not None
    history = ImportMessages(messages=(said(90, "an old anchovy"),))
    await History(play.engine, play.registry).on_import(history, "cli")
    assert await scene.texts("anchovy") == ["an old anchovy"]
    await play.hears(said(91, "a caper"), dies=True)
    assert await scene.texts("caper") == ["a caper"]
    with play.engine.begin() as db:
        db.exec_driver_sql("DELETE FROM router_messages WHERE text = 'a caper'")
    assert await scene.texts("caper") == []
    with play.engine.begin() as db, pytest.raises(ZeroDivisionError):
        db.exec_driver_sql("UPDATE router_messages SET text = 'olive'")
        db.rollback()
        raise ZeroDivisionError
    assert await scene.texts("olive") == []
    with closing(sqlite3.connect(tmp_path / "router.db")) as raw:
        raw.execute("INSERT INTO router_search(router_search, rank) VALUES ('integrity-check', 1)")


async def test_the_answer_is_bounded_and_goes_on_from_where_it_ended(tmp_path: Path) -> None:
    scene = await Scene.made(tmp_path)
    for number in range(10, 12 + HITS_MAX):
        await scene.play.hears(said(number, f"tick {number} " + "x" * 2000))
    first = await scene.find("tick", limit=10_000)
    assert isinstance(first, FoundMessages) and len(first.rows) == HITS_MAX
    assert all(len(row.text) < 500 for row in first.rows)
    rest = await scene.find("tick", before=first.more_before)
    assert isinstance(rest, FoundMessages) and [row.sent_ms for row in rest.rows] == [11, 10]
    assert rest.more_before == 0


async def test_a_migrated_database_is_searched_over_the_bus() -> None:
    async with installation("broker", "router") as made:
        connector, owner = await made.connect("console"), await made.connect("cli")
        await register(owner, "console:fam", "fam")
        await connector.publish(message("console:fam", 1, "an anchovy"))
        while not (found := await ask(owner, "router", SearchMessages(query="anchovy"), FoundMessages)).rows:
            pass
        assert [(row.chat, row.text) for row in found.rows] == [("console:fam", "an anchovy")]
        assert isinstance(await ask(owner, "router", SearchMessages(query="*"), FoundMessages | Failed), Failed)
