"""What people write at Telegram."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.processes import until
from tests.contract.telegram.bot import World, telegram
from tests.fakes.telegram_server import ANN, BOT, Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROUP = -1001
TOPIC = {"message_thread_id": 5, "is_topic_message": True}
BEGUN = {
    "message_id": 5, "date": 1, "chat": {"id": GROUP, "type": "supergroup", "title": "G"}, **TOPIC,
    "forum_topic_created": {"name": "Garden", "icon_color": 1},
}
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89" + b"\0" * 40
OGG = b"OggS\0\2" + b"\0" * 22 + b"\x01\x13OpusHead\1\2" + b"\0" * 60


async def test_a_message_is_told_with_who_wrote_it_and_where(world: World) -> None:
    told = world.server.says("hello")
    world.server.says("all", GROUP)
    first, second = await world.heard(2)
    assert (first.chat, first.text, first.sender, first.sender_name) == ("telegram:7", "hello", "7", "Ann Lee")
    assert (first.platform_id, first.sent_ms) == (str(told["message_id"]), told["date"] * 1000)
    assert not (first.is_group or first.from_me or first.is_edit or first.is_forwarded or first.is_for_us)
    assert (second.chat, second.chat_name, second.is_group) == (f"telegram:{GROUP}", f"Group {-GROUP}", True)


async def test_pain01_telegram_is_told_that_we_have_an_update_only_after_the_journal_has_it() -> None:
    async with telegram() as world:
        await until(lambda: bool(world.server.called("getUpdates")))
        world.made.kill("broker")
        world.server.says("hello")
        # The connector has it by now, and may not say so while nobody keeps it.
        await asyncio.sleep(1.0)
        assert world.server.acknowledged == []
        world.made.kill("telegram")
        world.made.start("broker")
        world.made.start("telegram")
        assert [message.text for message in await world.heard(1)] == ["hello"]
        await until(lambda: len(world.server.acknowledged) == 1)


async def test_pain05_the_same_update_told_twice_is_one_message(world: World) -> None:
    world.server.says("hello")
    again = dict(world.server.waiting[0])
    await world.heard(1)
    world.server.waiting.append(again)
    world.server.says("next")
    assert [message.text for message in await world.heard(1)] == ["next"]


async def test_a_topic_is_a_chat_of_its_own_and_the_general_one_is_the_groups(world: World) -> None:
    world.server.says("general", GROUP, reply_to_message=None)
    world.server.says("roses", GROUP, reply_to_message=BEGUN, **TOPIC)
    # In a group without topics a thread is only a row of answers.
    world.server.says("answer", GROUP, message_thread_id=77)
    general, roses, answer = await world.heard(3)
    assert (general.chat, roses.chat, answer.chat) == (
        f"telegram:{GROUP}", f"telegram:{GROUP}/5", f"telegram:{GROUP}"
    )
    assert roses.chat_name == f"Group {-GROUP} / Garden"
    assert roses.quote is None
    end = await world.answer("tulips", f"telegram:{GROUP}/5")
    assert end.status == "sent"
    assert [(each.chat_id, each.thread) for each in world.server.sent] == [(GROUP, 5)]


async def test_photos_voice_notes_and_documents_come_by_handle_with_the_kind_of_their_content(world: World) -> None:
    world.server.files |= {"small": b"x", "big": PNG, "voice": OGG, "doc": b"a,b\n1,2\n"}
    world.server.says("", caption="look", photo=[
        {"file_id": "small", "file_unique_id": "a", "width": 9, "height": 9, "file_size": 1},
        {"file_id": "big", "file_unique_id": "b", "width": 90, "height": 90, "file_size": len(PNG)},
    ])
    world.server.says("", voice={"file_id": "voice", "file_unique_id": "c", "duration": 1, "mime_type": "x/y"})
    world.server.says("", document={"file_id": "doc", "file_unique_id": "d", "file_name": "../t.csv"})
    photo, voice, document = await world.heard(3)
    assert photo.text == "look"
    assert [file.mime for each in (photo, voice, document) for file in each.attachments] == [
        "image/png", "audio/ogg", "text/csv"
    ]
    assert document.attachments[0].name == "t.csv"
    assert await world.owner.get_blob(photo.attachments[0].handle) == PNG


async def test_pain28_a_file_that_cannot_be_had_is_named_and_never_its_bytes_as_text(world: World) -> None:
    size = 2 << 20
    world.server.files["liar"] = b"x" * size
    for file_id, said in (("huge", size), ("liar", 10), ("gone", 10)):
        world.server.says("", caption=file_id, document={
            "file_id": file_id, "file_unique_id": "d", "file_name": f"{file_id}.bin", "file_size": said,
        })
    huge, liar, gone = await world.heard(3)
    assert huge.text == f"huge\n[file huge.bin of {size} bytes: too large to fetch]"
    assert liar.text == "liar\n[file liar.bin: too large to fetch]"
    assert gone.text.startswith("gone\n[file gone.bin: Telegram does not give it: Bad Request: wrong file_id")
    assert not (huge.attachments or liar.attachments or gone.attachments)
    assert all(call["file_id"] != "huge" for call in world.server.called("getFile"))


async def test_a_file_whose_server_has_a_bad_moment_is_fetched_later_and_nothing_overtakes_it(world: World) -> None:
    world.server.files["doc"] = b"text"
    world.server.faults["file"] = [Fault(502)]
    world.server.says("", document={"file_id": "doc", "file_unique_id": "d", "file_name": "a.txt"})
    world.server.says("after it")
    first, second = await world.heard(2)
    assert (first.attachments[0].size_bytes, second.text) == (4, "after it")


async def test_what_is_neither_text_nor_file_is_told_in_a_line_and_service_messages_are_not(world: World) -> None:
    world.server.says("", GROUP, new_chat_members=[ANN])
    world.server.says("", location={"latitude": 47.5, "longitude": 8.5})
    world.server.says("", contact={"first_name": "Bob", "phone_number": "+1"})
    world.server.says("", sticker={
        "file_id": "s", "file_unique_id": "s", "type": "regular", "width": 1, "height": 1, "is_animated": False,
        "is_video": False, "emoji": "👍",
    })
    assert [message.text for message in await world.heard(3)] == [
        "[location 47.5, 8.5]", "[contact Bob: +1]", "[sticker 👍]"
    ]


async def test_ac52_edits_and_forwards_are_marked_and_an_edit_has_the_messages_id(world: World) -> None:
    told = world.server.says("/approve 1")
    # Twice within a second: both are told.
    world.server.edits(told, "/approve 2")
    world.server.edits(told, "/approve 3")
    world.server.says("/approve 4", forward_origin={"type": "hidden_user", "date": 1, "sender_user_name": "Eve"})
    first, *edits, forward = await world.heard(4)
    assert [(each.text, each.is_edit) for each in (first, *edits)] == [
        ("/approve 1", False), ("/approve 2", True), ("/approve 3", True)
    ]
    assert {each.platform_id for each in (first, *edits)} == {str(told["message_id"])}
    assert (forward.is_forwarded, forward.is_edit) == (True, False)


async def test_an_answer_carries_what_it_answers_and_one_to_us_is_for_us(world: World) -> None:
    asked = world.server.says("what?", GROUP)
    world.server.says("that", GROUP, reply_to_message=asked)
    world.server.says("part", GROUP, reply_to_message=asked, quote={"text": "wha", "position": 0})
    await world.heard(1)
    await world.answer("I think so", f"telegram:{GROUP}")
    ours = asked | {"message_id": world.server.sent[0].message_id, "from": BOT, "text": "I think so"}
    world.server.says("sure?", GROUP, reply_to_message=ours)
    whole, part, to_us = await world.heard(3)
    assert whole.quote and (whole.quote.text, whole.quote.sender_name) == ("what?", "Ann Lee")
    assert part.quote and part.quote.text == "wha"
    assert (whole.is_for_us, to_us.is_for_us) == (False, True)


async def test_a_mention_of_the_bot_is_for_us_and_of_others_or_without_telegrams_word_is_not(world: World) -> None:
    def mention(text: str, name: str) -> None:
        units = text[: text.index(name)].encode("utf-16-le")
        world.server.says(text, GROUP, entities=[
            {"type": "mention", "offset": len(units) // 2, "length": len(name)}
        ])

    mention("😀 hey @Crab_Bot how are you", "@Crab_Bot")
    mention("hey @crab_bot_too", "@crab_bot_too")
    world.server.says("mail me at x@crab_bot", GROUP)
    assert [message.is_for_us for message in await world.heard(3)] == [True, False, False]


async def test_a_command_to_us_loses_our_name_and_one_to_another_bot_keeps_its(world: World) -> None:
    for name in ("crab_bot", "other_bot"):
        text = f"/stop@{name}"
        world.server.says(text, GROUP, entities=[{"type": "bot_command", "offset": 0, "length": len(text)}])
    ours, others = await world.heard(2)
    assert (ours.text, ours.is_for_us) == ("/stop", True)
    assert (others.text, others.is_for_us) == ("/stop@other_bot", False)


async def test_a_link_behind_words_is_written_out(world: World) -> None:
    world.server.says("😀 see here.", entities=[
        {"type": "text_link", "offset": 7, "length": 4, "url": "https://x.test/a"}
    ])
    [message] = await world.heard(1)
    assert message.text == "😀 see here (https://x.test/a)."


async def test_a_channel_that_speaks_in_a_group_is_the_sender_and_not_the_account_behind_it(world: World) -> None:
    world.server.says("psst", GROUP, sender_chat={"id": GROUP, "type": "supergroup", "title": "The admins"})
    [message] = await world.heard(1)
    assert (message.sender, message.sender_name) == (str(GROUP), "The admins")


async def test_a_group_that_becomes_a_supergroup_keeps_its_address_both_ways(world: World) -> None:
    told = world.server.says("before", -5)
    world.server.says("", -5, migrate_to_chat_id=-1005)
    world.server.says("", -1005, migrate_from_chat_id=-5)
    # Message ids begin anew there.
    world.server.says("after", -1005, message_id=told["message_id"])
    before, after = await world.heard(2)
    assert before.chat == after.chat == "telegram:-5"
    assert before.platform_id != after.platform_id
    world.made.kill("telegram")
    world.made.start("telegram")
    assert (await world.answer("there", "telegram:-5", reply_to=after.platform_id)).status == "sent"
    [sent] = world.server.sent
    assert (sent.chat_id, (sent.reply or {})["message_id"]) == (-1005, int(after.platform_id.split("@")[0]))


async def test_pain09_an_update_that_nobody_can_read_does_not_hold_up_the_next(world: World) -> None:
    world.server.update(message={"message_id": "?", "chat": 3})
    world.server.says("hello")
    assert [message.text for message in await world.heard(1)] == ["hello"]
    assert "can't be read" in (await world.made.ready(world.owner, "telegram")).troubles[0]
    await until(lambda: world.server.waiting == [])
