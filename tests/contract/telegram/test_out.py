"""What goes out to Telegram."""

from __future__ import annotations

import json

import pytest
from tests.contract.processes import until
from tests.contract.telegram.bot import World, reply, telegram
from tests.contract.telegram.test_in import PNG
from tests.fakes.telegram_server import Fault

from microclaw.core.chat_commands import menu
from microclaw.core.kinds import Attachment

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_markdown_is_shown_as_telegram_can(world: World) -> None:
    text = "# Plan\n\n- **buy** `<milk>`\n- [map](https://x.test/?a=1&b=2)\n\n```py\nif a < b:\n```"
    assert (await world.answer(text)).status == "sent"
    [sent] = world.server.sent
    assert sent.html == (
        '<b>Plan</b>\n\n• <b>buy</b> <code>&lt;milk&gt;</code>\n• <a href="https://x.test/?a=1&amp;b=2">map</a>\n\n'
        '<pre><code class="language-py">if a &lt; b:</code></pre>'
    )


async def test_formatting_that_telegram_refuses_goes_out_plain_and_once(world: World) -> None:
    world.server.faults["sendMessage"] = [Fault(400, "Bad Request: can't parse entities: whatever")]
    assert (await world.answer("**bold**")).status == "sent"
    assert [(each.text, each.html) for each in world.server.sent] == [("**bold**", "")]


async def test_pain26_a_long_answer_comes_whole_in_parts_though_telegram_counts_utf16(world: World) -> None:
    text = "\n\n".join(f"{number} " + "😀 word " * 90 for number in range(20))
    assert (await world.answer(text)).status == "sent"
    assert len(world.server.sent) > 3
    assert "".join("".join(each.text.split()) for each in world.server.sent) == "".join(text.split())


async def test_too_fast_is_waited_for_as_telegram_says(world: World) -> None:
    world.server.faults["sendMessage"] = [Fault(429, "Too Many Requests: retry after 1", {"retry_after": 1})]
    assert (await world.answer("hello")).status == "sent"
    assert world.server.texts(7) == ["hello"]


async def test_pain04_a_lost_answer_makes_the_message_uncertain_and_it_is_never_sent_again(world: World) -> None:
    before = (await world.status()).uncertain
    world.server.breaks_after.add("hello")
    end = await world.answer("hello")
    assert (end.status, "may have arrived" in end.error) == ("uncertain", True)
    world.server.faults["sendMessage"] = [Fault(502, "Bad Gateway")]
    assert (await world.answer("again")).status == "uncertain"
    world.made.kill("telegram")
    world.made.start("telegram")
    assert (await world.answer("next")).status == "sent"
    assert world.server.texts(7) == ["hello", "next"]
    assert (await world.status()).uncertain == before + 2


async def test_pain06_an_answer_goes_to_the_chat_that_it_names_or_nowhere(world: World) -> None:
    end = await world.answer("hello", "telegram:somebody")
    assert (end.status, "is no chat of Telegram" in end.error) == ("failed", True)
    world.server.faults["sendMessage"] = [Fault(403, "Forbidden: bot was blocked by the user")]
    end = await world.answer("hello")
    assert (end.status, end.error) == ("failed", "Telegram refuses it: Forbidden: bot was blocked by the user")
    assert world.server.sent == []


async def test_a_group_whose_move_is_only_found_out_by_sending_gets_it_in_its_new_place(world: World) -> None:
    world.server.moved[-5] = -1005
    assert (await world.answer("hello", "telegram:-5")).status == "sent"
    assert world.server.texts(-1005) == ["hello"]


async def test_an_answer_is_attached_to_what_it_answers(world: World) -> None:
    told = world.server.says("what?")
    await world.heard(1)
    await world.answer("that", reply_to=str(told["message_id"]))
    [sent] = world.server.sent
    assert sent.reply == {"message_id": told["message_id"], "allow_sending_without_reply": True}


async def test_files_go_out_and_a_picture_that_telegram_does_not_want_goes_as_a_file(world: World) -> None:
    handle = await world.owner.put_blob(PNG)
    picture = Attachment(handle=handle, name="a.png", mime="image/png", size_bytes=len(PNG))
    world.server.faults["sendPhoto"] = [Fault(400, "Bad Request: PHOTO_INVALID_DIMENSIONS")]
    assert (await world.answer("here", attachments=(picture, picture))).status == "sent"
    assert [(each.method, each.file_name, each.file == PNG) for each in world.server.sent[1:]] == [
        ("sendDocument", "a.png", True), ("sendPhoto", "a.png", True)
    ]


async def test_the_menu_has_the_houses_commands_and_is_set_once() -> None:
    async with telegram() as world:
        await until(lambda: bool(world.server.called("getUpdates")))
        world.made.kill("telegram")
        world.made.start("telegram")
        polls = len(world.server.called("getUpdates"))
        await until(lambda: len(world.server.called("getUpdates")) > polls)
        [call] = world.server.called("setMyCommands")
        commands = [(each["command"], each["description"]) for each in json.loads(call["commands"])]
        assert commands == menu()
        assert len(commands) <= 20


async def test_people_are_told_about_one_message_a_second_and_groups_twenty_a_minute() -> None:
    from microclaw.channel.pace import Pace
    from microclaw.telegram.outbound import EVERYWHERE, TO_A_PERSON, bucket

    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds + 1e-9

    pace = Pace(everywhere=EVERYWHERE, chat=TO_A_PERSON, bucket=bucket, clock_s=lambda: now[0], sleep=sleep)
    at = []
    for number in range(100):
        await pace.wait(f"telegram:-1001/{number % 3}" if number % 3 else "telegram:-1001")
        at.append(now[0])
    assert max(sum(begin <= each < begin + 60 for each in at) for begin in at) <= 20
    begin = now[0]
    for _ in range(13):
        await pace.wait("telegram:7")
    assert 9.9 < now[0] - begin < 10.1
    begin = now[0]
    for number in range(330):
        await pace.wait(f"telegram:{number + 100}")
    assert 9.9 < now[0] - begin < 10.1


async def test_pain02_what_could_not_be_sent_while_telegram_was_away_is_sent_when_it_is_back() -> None:
    async with telegram(start=False) as world:
        await world.server.stop()
        world.made.start("telegram")
        await world.owner.publish(reply(1, "hello"))

        async def waits() -> bool:
            seen = await world.status()
            return seen.state == "waiting" and "can't be reached" in seen.trouble

        await until(waits)
        await world.server.start()
        assert [end.status for end in (await world.ends(1)).values()] == ["sent"]
        assert world.server.texts(7) == ["hello"]
