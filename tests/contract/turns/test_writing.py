"""While an agent writes, its chat is told what there is so far."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.processes import DEADLINE_S, ask, until
from tests.contract.turns.desk import Desk
from tests.fakes.telegram_server import TelegramServer

from microclaw.bus.api import Subscription
from microclaw.core.kinds import PresenceChanged
from microclaw.core.requests import Failed, SecretAnswer, SetSecret

pytestmark = pytest.mark.usefixtures("bubblewrap")

SCRIPT = "#!write 2.5 Hello <internal>hm\n#!write 2.5 </internal>there."


async def presence(desk: Desk, *runs: str) -> list[PresenceChanged]:
    """All of it, until each of these runs has ended."""
    found: list[PresenceChanged] = []
    bus = await desk.made.connect("watcher")
    async with asyncio.timeout(DEADLINE_S):
        async for delivery in bus.subscribe(Subscription("watcher", ("presence.changed",))):
            await bus.ack(delivery)
            found.append(delivery.envelope.read(PresenceChanged))
            if {sign.run_id for sign in found if sign.state == "paused"} == set(runs):
                return found
    raise AssertionError


async def test_a_chat_that_can_show_it_sees_the_answer_grow_without_its_notes_and_others_do_not(desk: Desk) -> None:
    shown = await desk.grant(SCRIPT, chat="telegram:7")
    silent = await desk.grant(SCRIPT, group="other")
    found = await presence(desk, shown, silent)
    drafts = list(dict.fromkeys(sign.draft for sign in found if sign.run_id == shown and sign.state == "composing"))
    assert drafts == ["", "Hello", "Hello there."]
    assert {sign.draft for sign in found if sign.run_id == silent} == {""}
    assert {sign.state for sign in found if sign.run_id == silent} == {"composing", "paused"}


async def test_pain27_from_the_agents_first_words_to_telegram_the_answer_grows_and_stands_there_once(
    bubblewrap: None,
) -> None:
    server = await TelegramServer().start()
    async with Desk.opened(more=f'[channels.telegram]\nenabled = true\napi_url = "{server.url}"\n') as desk:
        owner = await desk.made.connect("cli")
        secret = SetSecret(name="telegram", value=server.token)
        assert isinstance(await ask(owner, "egress", secret, SecretAnswer | Failed), SecretAnswer)
        desk.made.start("telegram")
        await until(lambda: bool(server.called("getUpdates")))
        await desk.grant(SCRIPT, chat="telegram:7")
        await desk.grant(SCRIPT, group="other", chat="telegram:-1001")
        await until(lambda: server.texts(7) == ["Hello there."] and server.texts(-1001) == ["Hello there."])
        assert {text for _chat, _draft, text in server.drafts} >= {"Hello"}
        assert [sent.edits > 0 for sent in server.sent if sent.chat_id < 0] == [True]
    await server.stop()
