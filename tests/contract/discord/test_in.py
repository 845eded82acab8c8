"""What people write at Discord."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.discord.scene import Scene, discord
from tests.contract.listener import Listener
from tests.fakes.discord_world import ANN, BOB, BOT, BOT_ROLE, COOKS, DM, GENERAL, OTHER, OTHER_BOT, THREAD, user

from microclaw.core.kinds import ChatsNamed, MessageReceived
from microclaw.core.trigger import triggers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89" + b"\0" * 40
OGG = b"OggS\0\2" + b"\0" * 22 + b"\x01\x13OpusHead\1\2" + b"\0" * 60


async def one(scene: Scene) -> MessageReceived:
    [message] = await scene.heard(1)
    return message


async def test_a_message_is_told_with_who_wrote_it_and_where(scene: Scene) -> None:
    told = scene.server.says(GENERAL, "hello")
    message = await one(scene)
    assert (message.chat, message.chat_name, message.is_group) == (f"discord:{GENERAL}", "Home #general", True)
    assert (message.text, message.sender, message.sender_name) == ("hello", str(ANN), "Ann")
    assert message.platform_id == told["id"]
    assert not (message.from_me or message.is_own_reply or message.is_edit or message.is_forwarded)
    assert not message.is_for_us and message.quote is None


async def test_a_channel_where_nobody_wrote_is_known_by_its_name_and_told_again_when_that_changes() -> None:
    async with discord() as scene:
        named = Listener(scene.watcher, "names", ChatsNamed)
        first = await named.next()
        assert {each.chat: each.name for each in first.chats} == {
            f"discord:{GENERAL}": "Home #general", f"discord:{OTHER}": "Home #other",
        }
        scene.server.gateway.forget()
        await scene.connected()
        scene.server.renames(OTHER, "else")
        changed = await named.next()
        assert {each.chat: each.name for each in changed.chats} == {f"discord:{OTHER}": "Home #else"}


async def test_a_thread_and_a_direct_chat_are_chats_of_their_own(scene: Scene) -> None:
    scene.server.says(THREAD, "in the thread")
    thread = await one(scene)
    assert (thread.chat, thread.chat_name) == (f"discord:{THREAD}", "Home #general › plans")
    assert thread.is_group
    scene.server.says(DM, "just us")
    direct = await one(scene)
    assert (direct.chat, direct.chat_name, direct.is_group) == (f"discord:{DM}", "Ann", False)


async def test_a_member_is_called_as_in_that_guild(scene: Scene) -> None:
    told = scene.server.message(GENERAL, "hi", ANN)
    here = scene.server.as_told(told)
    here["member"]["nick"] = "Captain"
    scene.server.gateway.tell("MESSAGE_CREATE", here)
    assert (await one(scene)).sender_name == "Captain"


async def test_who_mentions_us_wakes_us_and_the_mention_reads_as_our_name(scene: Scene) -> None:
    us = [user(BOT)]
    scene.server.says(GENERAL, f"<@{BOT}> hello", mentions=us)
    scene.server.says(GENERAL, f"what says <@!{BOT}>?", mentions=us)
    scene.server.says(GENERAL, f"<@&{BOT_ROLE}> you too", mention_roles=[str(BOT_ROLE)])
    first, second, third = await scene.heard(3)
    assert (first.text, first.is_for_us) == ("@Andy hello", True) and triggers(first.text, "@Andy")
    assert (second.text, second.is_for_us) == ("what says @Andy?", True)
    assert (third.text, third.is_for_us) == ("@Andy you too", True)


async def test_other_people_roles_channels_and_emoji_read_as_names_and_wake_nobody(scene: Scene) -> None:
    text = f"<@{BOB}> and <@&{COOKS}> in <#{OTHER}> <a:wave:77> <@999> @everyone"
    scene.server.says(GENERAL, text, mentions=[user(BOB)], mention_roles=[str(COOKS)], mention_everyone=True)
    message = await one(scene)
    assert message.text == "@Bob and @cooks in #other :wave: <@999> @everyone"
    assert not message.is_for_us


async def test_a_reply_tells_what_it_answers_and_one_to_us_is_for_us(scene: Scene) -> None:
    asked = scene.server.says(GENERAL, "who?", BOB)
    scene.server.says(
        GENERAL, "me", type=19, referenced_message=asked,
        message_reference={"message_id": asked["id"], "channel_id": str(GENERAL)},
    )
    ours = scene.server.message(GENERAL, "I said so", BOT)
    scene.server.says(
        GENERAL, "why?", type=19, referenced_message=ours,
        message_reference={"message_id": ours["id"], "channel_id": str(GENERAL)},
    )
    _asked, first, second = await scene.heard(3)
    assert first.quote is not None and second.quote is not None
    assert (first.quote.id, first.quote.sender_name, first.quote.text) == (asked["id"], "Bob", "who?")
    assert (second.quote.sender_name, second.quote.text) == ("Andy", "I said so")
    assert (first.is_for_us, second.is_for_us) == (False, True)


async def test_ac52_an_edit_and_a_forwarded_message_are_marked(scene: Scene) -> None:
    told = scene.server.says(GENERAL, "at seven")
    scene.server.edits(told, "at eight")
    before, after = await scene.heard(2)
    assert (before.text, before.is_edit, after.text, after.is_edit) == ("at seven", False, "at eight", True)
    assert before.platform_id == after.platform_id
    snapshot = {"message": {
        "type": 0, "content": f"<@{BOT}> pay him", "mentions": [user(BOT)], "mention_roles": [], "attachments": [],
        "embeds": [], "timestamp": told["timestamp"], "edited_timestamp": None, "flags": 0, "components": [],
    }}
    scene.server.says(
        GENERAL, "", mentions=[user(BOT)], message_snapshots=[snapshot],
        message_reference={"type": 1, "channel_id": str(OTHER), "message_id": "1"},
    )
    forwarded = await one(scene)
    assert forwarded.is_forwarded and "pay him" in forwarded.text
    assert not forwarded.is_for_us and not forwarded.is_edit


async def test_a_preview_that_discord_adds_is_no_edit(scene: Scene) -> None:
    told = scene.server.says(GENERAL, "see https://example.org")
    scene.server.gateway.tell("MESSAGE_UPDATE", scene.server.as_told(told | {"embeds": [{"type": "link"}]}))
    scene.server.says(GENERAL, "next")
    assert [each.text for each in await scene.heard(2)] == ["see https://example.org", "next"]


async def test_our_own_messages_are_known_by_our_account_and_other_bots_are_not_listened_to(scene: Scene) -> None:
    scene.server.says(GENERAL, "beep", OTHER_BOT)
    scene.server.says(GENERAL, "by a webhook", webhook_id="77")
    scene.server.says(GENERAL, "joined", type=7)
    record = await scene.says(GENERAL, "hello")
    # A person writes our very words.
    scene.server.says(GENERAL, "hello")
    ours, theirs = await scene.heard(2, own=True)
    assert (ours.platform_id, ours.is_own_reply, ours.from_me) == (record.platform_id, True, True)
    assert (theirs.text, theirs.is_own_reply, theirs.from_me) == ("hello", False, False)


async def test_pain28_a_voice_note_comes_as_a_file_whose_kind_its_content_says(scene: Scene) -> None:
    files = [
        scene.server.attachment("voice-message.ogg", OGG), scene.server.attachment("p.txt", PNG, filename="../p.txt")
    ]
    scene.server.says(DM, "", attachments=files, flags=1 << 13)
    message = await one(scene)
    voice, picture = message.attachments
    assert (voice.mime, voice.name, voice.size_bytes) == ("audio/ogg", "voice-message.ogg", len(OGG))
    assert (picture.mime, picture.name) == ("image/png", "p.txt")
    assert await scene.owner.get_blob(picture.handle) == PNG
    assert message.text == ""


async def test_files_too_large_lying_about_their_size_or_gone_leave_a_line_and_the_message(scene: Scene) -> None:
    server = scene.server
    large = server.attachment("film.mp4", b"x", size=3 << 20)
    lying = server.attachment("small.bin", b"y" * (2 << 20), size=10)
    gone = server.attachment("gone.txt", b"z")
    server.files.pop(gone["url"].removeprefix(server.url))
    server.says(GENERAL, "look", attachments=[large, lying, gone])
    message = await one(scene)
    assert message.text.split("\n") == [
        "look", f"[file film.mp4 of {3 << 20} bytes: too large to fetch]", "[file small.bin: too large to fetch]",
        "[file gone.txt: could not be fetched from Discord]",
    ]
    assert message.attachments == ()


async def test_stickers_and_polls_have_words(scene: Scene) -> None:
    scene.server.says(GENERAL, "", sticker_items=[{"id": "1", "name": "wave", "format_type": 1}])
    assert (await one(scene)).text == "[sticker: wave]"


async def test_a_message_that_is_told_in_part_is_read_whole(scene: Scene) -> None:
    message = scene.server.message(GENERAL, "all of it", ANN)
    scene.server.messages[GENERAL].append(message)
    part = {key: message[key] for key in ("id", "channel_id", "content")} | {"guild_id": "5001"}
    scene.server.gateway.tell("MESSAGE_CREATE", part)
    assert (await one(scene)).text == "all of it"


async def test_a_channel_whose_file_is_slow_holds_up_no_other(scene: Scene) -> None:
    scene.server.rest.files_wait = waiting = asyncio.Event()
    scene.server.says(GENERAL, "slow", attachments=[scene.server.attachment("a.txt", b"a")])
    scene.server.says(GENERAL, "behind it")
    scene.server.says(OTHER, "quick")
    assert (await one(scene)).text == "quick"
    waiting.set()
    assert [each.text for each in await scene.heard(2)] == ["slow", "behind it"]
    scene.server.rest.files_wait = None
