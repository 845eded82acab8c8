"""While an agent writes, its chat is told what there is so far."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.processes import DEADLINE_S
from tests.contract.turns.desk import Desk

from microclaw.bus.api import Subscription
from microclaw.core.kinds import PresenceChanged

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
