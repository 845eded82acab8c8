"""Both ways once, whatever goes wrong: the connector killed with -9, connections that break, answers that are lost."""

from __future__ import annotations

import os
import random

import pytest
from tests.contract.discord.scene import Scene, discord, reply
from tests.contract.processes import killed_again_and_again, until
from tests.fakes.discord_world import DM, GENERAL, OTHER

from microclaw.discord.outbound import SEARCH_MESSAGES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Each way; 300 take about a minute.
COUNT = int(os.environ.get("MC_CHANNEL_MESSAGES", "90"))


async def test_many_messages_each_way_come_through_once_and_in_order_though_all_goes_wrong() -> None:
    """kill -9 at random, cut and repeated and held-back events, "too fast", 500s, answers that are lost."""
    chance, chats, rounds = random.Random(7), (GENERAL, OTHER, DM), COUNT // 15
    async with discord(random.Random(8)) as scene:
        # A direct chat is known from its first message on.
        scene.server.says(DM, "first")
        await scene.heard(1)
        async with killed_again_and_again(scene.made, "discord", scene.owner, chance, ready_s_max=2.0) as kills:
            for number in range(COUNT):
                scene.server.says(chats[number % 3], f"in {number}")
                await scene.owner.publish(reply(number, f"out {number}", chats[number % 3]))
                if number % 15 == 14:
                    killed = len(kills)
                    await until(lambda before=killed: len(kills) > before)
        assert len(kills) >= rounds
        heard = [(each.chat, each.text) for each in await scene.heard(COUNT)]
        records = await scene.ends(COUNT)
        for chat in chats:
            mine = [number for number in range(COUNT) if chats[number % 3] == chat]
            assert [text for there, text in heard if there == f"discord:{chat}"] == [f"in {number}" for number in mine]
            assert scene.server.texts(chat) == [f"out {number}" for number in mine]
        assert {record.status for record in records} == {"sent"}


async def test_pain04_a_part_whose_answer_was_lost_is_found_in_the_history_and_not_sent_again(scene: Scene) -> None:
    rest, posts = scene.server.rest, scene.server.rest.posts
    # Two of the same words before, so that the words alone prove nothing.
    await scene.owner.publish(reply(1, "ok", GENERAL), reply(2, "ok", GENERAL))
    first = await scene.ends(2)
    rest.breaks_after.add("ok")
    rest.fails_after.add("and")
    await scene.owner.publish(reply(3, "ok", GENERAL), reply(4, "and", GENERAL))
    records = [*first, *await scene.ends(2)]
    assert {record.status for record in records} == {"sent"}
    assert [record.platform_id for record in records] == [each["id"] for each in scene.server.messages[GENERAL][-4:]]
    assert rest.posts == posts + 4


async def test_a_part_that_the_history_does_not_show_yet_is_sent_again_under_its_nonce(scene: Scene) -> None:
    rest, posts = scene.server.rest, scene.server.rest.posts
    rest.history_lag = 1
    rest.breaks_after.add("hello")
    # The gateway is silent too: it would tell of the message.
    scene.server.gateway.is_silent = True
    record = await scene.says(GENERAL, "hello")
    assert (record.status, record.platform_id) == ("sent", scene.server.messages[GENERAL][-1]["id"])
    assert rest.posts == posts + 2 and scene.server.texts(GENERAL).count("hello") == 1


async def test_a_part_in_doubt_behind_more_than_is_searched_is_uncertain_and_not_sent_again(scene: Scene) -> None:
    """A day later in a lively channel: the nonce is forgotten, and what was not found may stand further back."""
    rest, posts = scene.server.rest, scene.server.rest.posts
    scene.server.gateway.is_silent = True
    rest.breaks_after.add("far back")
    rest.history_fails = 1_000
    await scene.owner.publish(reply(900, "far back", GENERAL))
    await until(lambda: "far back" in scene.server.texts(GENERAL))
    for number in range(SEARCH_MESSAGES_MAX):
        scene.server.says(GENERAL, f"talk {number}")
    rest.history_fails = 0
    assert (await scene.end()).status == "uncertain"
    assert rest.posts == posts + 1


async def test_a_part_in_doubt_where_the_history_is_hidden_is_known_by_its_nonce_or_uncertain(scene: Scene) -> None:
    rest, posts = scene.server.rest, scene.server.rest.posts
    rest.hidden.add(OTHER)
    rest.breaks_after |= {"seen", "unseen"}
    assert (await scene.says(OTHER, "seen")).status == "sent"
    scene.server.gateway.is_silent = True
    await scene.owner.publish(reply(1, "unseen", OTHER), reply(2, "next", OTHER))
    unseen, after = await scene.ends(2)
    assert (unseen.status, after.status) == ("uncertain", "sent")
    assert scene.server.texts(OTHER) == ["seen", "unseen", "next"] and rest.posts == posts + 3


async def test_pain05_the_same_event_twice_is_one_message(scene: Scene) -> None:
    message = scene.server.says(GENERAL, "once")
    for _ in range(3):
        scene.server.gateway.tell("MESSAGE_CREATE", scene.server.as_told(message))
    # Told again in other words: the author has another name now.
    renamed = message | {"author": message["author"] | {"global_name": "Anna"}}
    scene.server.gateway.tell("MESSAGE_CREATE", scene.server.as_told(renamed))
    scene.server.says(GENERAL, "after")
    assert [each.text for each in await scene.heard(2)] == ["once", "after"]


async def test_pain02_pain06_a_reply_waits_for_discord_to_come_back_and_goes_to_its_own_chat(scene: Scene) -> None:
    scene.server.says(DM, "private?")
    await scene.heard(1)
    await scene.server.stop()
    await scene.owner.publish(reply(11, "private", DM), reply(11, "public", GENERAL))
    await until(scene.lost)
    await scene.server.start()
    assert {record.status for record in await scene.ends(2)} == {"sent"}
    assert (scene.server.texts(DM)[-1], scene.server.texts(GENERAL)[-1]) == ("private", "public")
