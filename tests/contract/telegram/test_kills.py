"""Three hundred messages each way while everything goes wrong (`MC_CHANNEL_MESSAGES=300`; fewer by default)."""

from __future__ import annotations

import os
import random

from tests.contract.processes import killed_again_and_again
from tests.contract.telegram.bot import BEGAN_MS, reply, telegram

from microclaw.core.ids import derived_id, id_text

MESSAGES = int(os.environ.get("MC_CHANNEL_MESSAGES", "60"))
#: To one person goes about one message a second.
PEOPLE = [100 + number for number in range(30)]


async def test_every_message_comes_and_goes_once_and_in_order_whatever_is_killed_and_broken() -> None:
    """kill -9 at random, dropped connections, 429, 500, updates repeated and out of order, answers that are lost."""
    chance = random.Random(7)
    async with telegram(random.Random(8)) as world:
        server = world.server
        async with killed_again_and_again(world.made, "telegram", world.owner, chance, ready_s_max=3.0) as kills:
            for number in range(MESSAGES):
                person = PEOPLE[number % len(PEOPLE)]
                server.says(f"in {number}", person)
                await world.owner.publish(reply(number, f"out {number}", f"telegram:{person}"))
            heard = await world.heard(MESSAGES)
            ends = await world.ends(MESSAGES)
        assert kills
        fates = {}
        for number in range(MESSAGES):
            chat = f"telegram:{PEOPLE[number % len(PEOPLE)]}"
            fates[f"out {number}"] = ends[id_text(derived_id(BEGAN_MS, chat, number))].status
        for person in PEOPLE:
            mine = [number for number in range(MESSAGES) if PEOPLE[number % len(PEOPLE)] == person]
            assert [each.text for each in heard if each.chat == f"telegram:{person}"] == [f"in {n}" for n in mine]
            arrived = server.texts(person)
            # In order, none twice; what is missing was told to be uncertain.
            assert arrived == [text for text in (f"out {n}" for n in mine) if text in arrived]
            assert {f"out {n}" for n in mine} - set(arrived) <= {text for text in fates if fates[text] == "uncertain"}
        assert set(fates.values()) <= {"sent", "uncertain"}
        assert (await world.status()).uncertain == sum(fate == "uncertain" for fate in fates.values())
