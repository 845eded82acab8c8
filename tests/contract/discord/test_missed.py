"""What people wrote while the connector was away: nothing lost, nothing twice, in order, before what comes live."""

from __future__ import annotations

import pytest
from tests.contract.discord.scene import Scene, discord
from tests.fakes.discord_world import DM, GENERAL, GUILD, OTHER, THREAD

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def texts(scene: Scene, count: int) -> list[str]:
    return [each.text for each in await scene.heard(count)]


async def test_pain01_what_was_written_while_we_were_away_comes_in_order_before_what_comes_live(scene: Scene) -> None:
    for chat in (GENERAL, THREAD, DM):
        scene.server.says(chat, f"before {chat}")
    await scene.heard(3)
    scene.made.kill("discord")
    scene.server.gateway.forget()
    # More than Discord gives at once, and a channel of which we never heard.
    missed = [f"missed {number}" for number in range(130)]
    for text in missed:
        scene.server.says(GENERAL, text)
    for chat in (THREAD, DM, OTHER):
        scene.server.says(chat, f"missed {chat}")
    scene.made.start("discord")
    await scene.connected()
    scene.server.says(GENERAL, "live")
    heard = [(each.chat, each.text, each.chat_name) for each in await scene.heard(134)]
    assert [text for chat, text, _ in heard if chat == f"discord:{GENERAL}"] == [*missed, "live"]
    assert {(f"discord:{chat}", f"missed {chat}") for chat in (THREAD, DM, OTHER)} < {each[:2] for each in heard}
    assert (f"discord:{DM}", f"missed {DM}", "Ann") in heard
    # Nothing comes twice.
    await scene.killed()
    scene.server.says(GENERAL, "last")
    assert await texts(scene, 1) == ["last"]


async def test_pain03_what_was_written_before_we_came_is_not_answered_now_nor_later() -> None:
    async with discord(start=False) as scene:
        scene.server.says(GENERAL, "long ago")
        scene.server.says(THREAD, "that too")
        scene.made.start("discord")
        await scene.connected()
        scene.server.says(GENERAL, "now")
        assert await texts(scene, 1) == ["now"]
        await scene.killed()
        scene.server.says(THREAD, "later")
        assert await texts(scene, 1) == ["later"]


async def test_what_discord_never_told_is_read_at_the_next_connection(scene: Scene) -> None:
    scene.server.says(GENERAL, "told")
    scene.server.gateway.is_silent = True
    scene.server.says(GENERAL, "not told")
    scene.server.gateway.is_silent = False
    scene.server.says(GENERAL, "told again")
    assert await texts(scene, 2) == ["told", "told again"]
    await scene.killed()
    assert await texts(scene, 1) == ["not told"]


async def test_an_edit_of_a_recent_message_while_we_were_away_is_read(scene: Scene) -> None:
    told = scene.server.says(GENERAL, "at seven")
    await scene.heard(1)
    scene.made.kill("discord")
    scene.server.gateway.forget()
    scene.server.edits(told, "at eight")
    scene.made.start("discord")
    [edit] = await scene.heard(1)
    assert (edit.text, edit.is_edit, edit.platform_id) == ("at eight", True, told["id"])


async def test_a_thread_that_was_archived_meanwhile_is_asked_for_its_news(scene: Scene) -> None:
    scene.server.says(THREAD, "before")
    await scene.heard(1)
    scene.made.kill("discord")
    scene.server.gateway.forget()
    scene.server.says(THREAD, "missed")
    # GUILD_CREATE lists active threads only.
    scene.server.channels[THREAD]["guild_id"] = str(GUILD + 1)
    scene.made.start("discord")
    [message] = await scene.heard(1)
    scene.server.channels[THREAD]["guild_id"] = str(GUILD)
    assert (message.text, message.is_group) == ("missed", True)


async def test_messages_written_while_the_broker_is_away_wait_for_it(scene: Scene) -> None:
    scene.made.kill("broker")
    sent = [f"{number}" for number in range(20)]
    for text in sent:
        scene.server.says(GENERAL, text)
    scene.made.start("broker")
    assert await texts(scene, 20) == sent


async def test_a_history_that_fails_is_asked_again_and_one_that_is_hidden_holds_up_nothing(scene: Scene) -> None:
    for chat in (GENERAL, OTHER):
        scene.server.says(chat, "before")
    await scene.heard(2)
    scene.made.kill("discord")
    scene.server.gateway.forget()
    scene.server.says(GENERAL, "missed")
    scene.server.says(OTHER, "hidden")
    scene.server.rest.history_fails = 2
    scene.server.rest.hidden.add(OTHER)
    scene.made.start("discord")
    await scene.connected()
    scene.server.says(GENERAL, "live")
    scene.server.says(OTHER, "live")
    heard = [(each.chat, each.text) for each in await scene.heard(3)]
    assert [text for chat, text in heard if chat == f"discord:{GENERAL}"] == ["missed", "live"]
    assert [text for chat, text in heard if chat == f"discord:{OTHER}"] == ["live"]
