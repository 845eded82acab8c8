"""An answer that is shown while it is written."""

from __future__ import annotations

import random

import pytest
import pytest_asyncio
from tests.contract.processes import killed_again_and_again, until
from tests.contract.telegram.bot import BEGAN_MS, World, reply, telegram
from tests.fakes.telegram_server import Fault

from microclaw.bus.api import Draft
from microclaw.bus.service import now_ms
from microclaw.core.ids import derived_id, id_text, new_id
from microclaw.core.kinds import PresenceChanged

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROUP = "telegram:-1001"


def run(number: int) -> str:
    """A run's id; later runs have greater ones."""
    return id_text(derived_id(BEGAN_MS + number, "run"))


def writes(run_id: str, text: str, chat: str = GROUP, state: str = "composing") -> Draft:
    now = now_ms()
    sign = PresenceChanged(chat=chat, state=state, run_id=run_id, expires_ms=now + 60_000, draft=text)
    return Draft(chat, sign, message_id=new_id(now), ts_ms=now, expires_ms=now + 60_000)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def listening(shared: World) -> None:
    """Presence is heard from the connector's start on, so the first words must not be said before it."""
    async def is_shown() -> bool:
        await shared.owner.publish(writes(run(0), "", "telegram:1"))
        return bool(shared.server.called("sendChatAction"))

    await until(is_shown)


async def shown(world: World, text: str, chat: int = -1001) -> None:
    await until(lambda: text in world.server.texts(chat))


async def test_a_person_sees_drafts_which_leave_nothing_and_then_the_answer(world: World) -> None:
    run_id = run(1)
    for text, seen in (("**so", "**so"), ("**Hello** the", "Hello the")):
        await world.owner.publish(writes(run_id, text, "telegram:7"))
        await until(lambda seen=seen: seen in [text for _chat, _draft, text in world.server.drafts])
    assert (await world.answer("**Hello** there", run_id=run_id)).status == "sent"
    assert world.server.texts(7) == ["Hello there"]
    assert len({draft_id for _chat, draft_id, _text in world.server.drafts}) == 1
    # Late: not after the answer.
    count = len(world.server.drafts)
    await world.owner.publish(writes(run_id, "late", "telegram:7"), writes(run(2), "next", "telegram:7"))
    await until(lambda: world.server.drafts[-1][2] == "next")
    assert len(world.server.drafts) == count + 1


async def test_pain27_in_a_group_one_message_grows_and_becomes_the_answer(world: World) -> None:
    run_id = run(10)
    await world.owner.publish(writes(run_id, "so far"))
    await shown(world, "so far")
    await world.owner.publish(writes(run_id, "Hello the"))
    await shown(world, "Hello the")
    assert (await world.answer("Hello **there**", GROUP, run_id=run_id)).status == "sent"
    [sent] = world.server.sent
    assert sent.html == "Hello <b>there</b>"
    # What comes late changes nothing, not even after a kill.
    await world.owner.publish(writes(run_id, "late"))
    world.made.kill("telegram")
    world.made.start("telegram")
    await world.owner.publish(writes(run_id, "later"), writes(run(11), "next"))
    await shown(world, "next")
    assert world.server.texts(-1001) == ["Hello there", "next"]
    await world.answer("next answer", GROUP, run_id=run(11))
    assert world.server.texts(-1001) == ["Hello there", "next answer"]


async def test_pain27_an_answer_whose_change_was_lost_on_the_way_is_made_again_and_is_certain(world: World) -> None:
    run_id = run(20)
    await world.owner.publish(writes(run_id, "so far"))
    await shown(world, "so far")
    world.server.breaks_after.add("Hello")
    world.server.faults["editMessageText"] = [Fault(502)]
    assert (await world.answer("Hello", GROUP, run_id=run_id)).status == "sent"
    assert world.server.texts(-1001) == ["Hello"]


async def test_a_message_that_somebody_took_away_is_said_anew(world: World) -> None:
    run_id = run(30)
    await world.owner.publish(writes(run_id, "so far"))
    await shown(world, "so far")
    world.server.sent.clear()
    assert (await world.answer("Hello", GROUP, run_id=run_id)).status == "sent"
    assert world.server.texts(-1001) == ["Hello"]


async def test_a_long_answer_goes_on_in_further_messages(world: World) -> None:
    run_id = run(40)
    await world.owner.publish(writes(run_id, "so far"))
    await shown(world, "so far")
    text = "\n\n".join(f"{number} " + "word " * 300 for number in range(6))
    assert (await world.answer(text, GROUP, run_id=run_id)).status == "sent"
    assert "".join("".join(world.server.texts(-1001)).split()) == "".join(text.split())


async def test_what_a_tool_says_in_between_takes_the_message_and_the_answer_gets_a_new_one(world: World) -> None:
    run_id = run(50)
    await world.owner.publish(writes(run_id, "I ask her"))
    await shown(world, "I ask her")
    await world.answer("I have asked her", GROUP, run_id=run_id, origin="message")
    await world.owner.publish(writes(run_id, "She sa"))
    await shown(world, "She sa")
    await world.answer("She says yes", GROUP, run_id=run_id)
    assert world.server.texts(-1001) == ["I have asked her", "She says yes"]


async def test_a_run_that_ends_without_an_answer_leaves_no_message(world: World) -> None:
    run_id = run(60)
    await world.owner.publish(writes(run_id, "so far"))
    await shown(world, "so far")
    await world.owner.publish(writes(run_id, "", state="paused"))
    await until(lambda: world.server.sent == [])
    assert (await world.answer("after all", GROUP, run_id=run_id)).status == "sent"
    assert world.server.texts(-1001) == ["after all"]


async def test_a_text_beyond_telegrams_limit_is_shown_up_to_there(world: World) -> None:
    run_id = run(65)
    await world.owner.publish(writes(run_id, "😀 " * 1700))
    await until(lambda: any(text.startswith("😀") for text in world.server.texts(-1001)))
    assert (await world.answer("short", GROUP, run_id=run_id)).status == "sent"
    assert world.server.texts(-1001) == ["short"]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_server_without_drafts_shows_a_message_to_a_person_too(world: World, status: int) -> None:
    run_id = run(70 + status)
    world.server.faults["sendMessageDraft"] = [Fault(status, "Not Found: method not found")] * 9

    async def is_shown() -> bool:
        await world.owner.publish(writes(run_id, f"Hello {now_ms()}", "telegram:9"))
        return any(text.startswith("Hello") for text in world.server.texts(9))

    await until(is_shown)
    await world.answer("Hello there", "telegram:9", run_id=run_id)
    assert world.server.texts(9) == ["Hello there"]


async def test_pain27_no_answer_stands_there_twice_though_the_process_is_killed_again_and_again() -> None:
    chats = [-2000 - number for number in range(8)]
    chance = random.Random(3)
    async with telegram() as world:
        await world.made.ready(world.owner, "telegram")
        async with killed_again_and_again(world.made, "telegram", world.owner, chance, ready_s_max=2.0) as kills:
            for step in range(3):
                for number, chat in enumerate(chats):
                    await world.owner.publish(writes(run(number), f"answer {number} so far {step}", f"telegram:{chat}"))
                killed = len(kills)
                await until(lambda killed=killed: len(kills) > killed)
            for number, chat in enumerate(chats):
                await world.owner.publish(reply(number, f"answer {number}", f"telegram:{chat}", run_id=run(number)))
            ends = await world.ends(len(chats))
        fates = [ends[id_text(derived_id(BEGAN_MS, f"telegram:{chat}", number))] for number, chat in enumerate(chats)]
        for number, chat in enumerate(chats):
            # A message that was begun when the process died may be left, and says nothing.
            texts = [text for text in world.server.texts(chat) if text != "…"]
            assert texts == [f"answer {number}"] or (texts == [] and fates[number].status == "uncertain")
