"""The connection to Discord: what breaks it, what mends it, and that its state is told as it is."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.discord.scene import Scene, discord, reply
from tests.contract.processes import until
from tests.fakes.discord_gateway import INVALID_SESSION, RECONNECT
from tests.fakes.discord_server import DiscordServer
from tests.fakes.discord_world import DM, GENERAL, TOKEN

from microclaw.bus.service import now_ms
from microclaw.channel.link import Link
from microclaw.core.requests import ChannelStatus
from microclaw.discord.gateway import stay

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def texts(scene: Scene, count: int) -> list[str]:
    return [each.text for each in await scene.heard(count)]


async def in_state(scene: Scene, state: str) -> ChannelStatus:
    async def is_so() -> bool:
        return (await scene.status()).state == state

    await until(is_so)
    return await scene.status()


async def test_pain10_a_broken_connection_is_resumed_and_what_was_told_meanwhile_comes(scene: Scene) -> None:
    gateway, seen = scene.server.gateway, len(scene.server.gateway.seen)
    assert gateway.query["compress"] == "zlib-stream" and gateway.query["v"] == "10"
    scene.server.says(GENERAL, "one")
    assert await texts(scene, 1) == ["one"]
    asked = len(scene.server.rest.asked)
    gateway.drop()
    scene.server.says(GENERAL, "two")
    scene.server.says(DM, "three")
    assert sorted(await texts(scene, 2)) == ["three", "two"]
    # Discord wants the connection made anew, now and then; and closes it without a word that it is over.
    gateway.wires[-1].say(RECONNECT)
    await until(lambda: len(gateway.seen) == seen + 2)
    await scene.connected()
    await gateway.wires[-1].close(4000)
    scene.server.says(GENERAL, "four")
    assert await texts(scene, 1) == ["four"]
    assert gateway.seen[seen:] == ["RESUME", "RESUME", "RESUME"]
    # The history was asked for nothing but the direct chat that was new.
    assert {path for _method, path in scene.server.rest.asked[asked:]} <= {f"/channels/{DM}/messages"}


async def test_pain01_a_session_that_can_not_be_resumed_loses_nothing(scene: Scene) -> None:
    seen = len(scene.server.gateway.seen)
    scene.server.says(GENERAL, "one")
    scene.server.says(DM, "two")
    await scene.heard(2)
    scene.server.gateway.forget()
    scene.server.says(GENERAL, "three")
    scene.server.says(DM, "four")
    scene.server.says(GENERAL, "five")
    heard = [(each.chat, each.text) for each in await scene.heard(3)]
    assert [text for chat, text in heard if chat == f"discord:{GENERAL}"] == ["three", "five"]
    assert scene.server.gateway.seen[seen:] == ["RESUME", "IDENTIFY"]
    # Discord says of a living session that it is none.
    scene.server.gateway.wires[-1].say(INVALID_SESSION, False)
    scene.server.says(GENERAL, "six")
    assert await texts(scene, 1) == ["six"]


async def test_pain11_a_connection_that_does_not_answer_its_heartbeats_is_dead_and_a_quiet_one_is_not() -> None:
    async with discord(heartbeat_ms=1_500) as scene:
        gateway = scene.server.gateway
        before = (await scene.status()).last_event_ms
        beats = gateway.heartbeats
        await until(lambda: gateway.heartbeats >= beats + 2)
        quiet = await scene.status()
        assert quiet.state == "connected" and quiet.last_event_ms > before and gateway.seen == ["IDENTIFY"]
        gateway.is_deaf = True
        await until(lambda: "RESUME" in gateway.seen)
        gateway.is_deaf = False
        await scene.connected()
        scene.server.says(GENERAL, "still here")
        assert await texts(scene, 1) == ["still here"]


async def test_pain09_discord_that_is_away_keeps_nobody_from_starting_and_gets_everything_later() -> None:
    async with discord(start=False) as scene:
        await scene.server.stop()
        scene.made.start("discord")
        await scene.owner.publish(reply(1, "hello", GENERAL))
        waiting = await in_state(scene, "waiting")
        assert "can't be reached" in waiting.trouble and waiting.failures > 0
        await scene.server.start()
        assert (await scene.end()).status == "sent"
        seen = await scene.status()
        assert (seen.state, seen.account, seen.failures, seen.sent) == ("connected", "claw", 0, 1)


async def test_what_only_the_owner_can_mend_is_told_in_words_that_say_how() -> None:
    async with discord(start=False) as scene:
        scene.token = ""
        scene.made.start("discord")
        assert "no secret discord" in (await in_state(scene, "logged_out")).trouble
        for token, code, words in (
            ("not a token", 0, "no token of a Discord bot"),
            ("NDI0Mg==.abc.old", 0, "does not accept the token"),
            ("NDI0Mg==.abc.def", 4004, "does not accept the token"),
            ("NDI0Mg==.abc.def", 4014, "Message Content Intent"),
        ):
            scene.token, scene.server.gateway.closes_with = token, code
            scene.made.kill("discord")
            scene.made.start("discord")
            assert words in (await in_state(scene, "logged_out")).trouble
        troubles = (await scene.made.ready(scene.owner, "discord")).troubles
        assert "Message Content Intent" in troubles[0]
        assert not any(scene.token in line for line in scene.made.log("discord").splitlines())


async def test_a_stop_leaves_nothing_in_doubt() -> None:
    async with discord() as scene:
        scene.server.rest.hidden.add(GENERAL)
        scene.server.gateway.is_silent = True
        for number in range(20):
            await scene.owner.publish(reply(number, f"{number}", GENERAL))
            if number == 8:
                await until(lambda: bool(scene.server.sent))
                # In a thread: the fake Discord has to answer meanwhile.
                assert await asyncio.to_thread(scene.made.stop, "discord") == 0
                scene.made.start("discord")
        assert {each.status for each in await scene.ends(20)} == {"sent"}
        assert scene.server.texts(GENERAL) == [f"{number}" for number in range(20)]


async def test_a_start_that_is_given_up_leaves_nobody_who_goes_on_with_it() -> None:
    server = await DiscordServer().start()
    server.gateway.is_down = True
    url, told = f"ws://127.0.0.1:{server.port}/gateway/", asyncio.Event()
    link = Link("discord", now_ms)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    staying = asyncio.create_task(stay(TOKEN, url, link, lambda _name, _data: told.set(), failed))
    await until(lambda: server.gateway.tries > 0)
    staying.cancel()
    await asyncio.wait({staying})
    server.gateway.is_down = False
    assert not any(task.get_name().startswith("keep alive") for task in asyncio.all_tasks())
    assert staying.cancelled() and link.state == "connecting" and not told.is_set()
    await server.stop()
