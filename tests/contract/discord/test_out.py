"""What the assistant says at Discord."""

from __future__ import annotations

import pytest
from tests.contract.discord.scene import Scene, reply
from tests.contract.processes import until
from tests.fakes.discord_world import DM, GENERAL, OTHER, THREAD

from microclaw.bus.api import Draft
from microclaw.bus.service import now_ms
from microclaw.core.kinds import Attachment, PresenceChanged

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_reply_stands_as_a_reply_and_calls_nobody(scene: Scene) -> None:
    asked = scene.server.says(GENERAL, "?")
    record = await scene.says(GENERAL, "@everyone <@1001> <@&5902> look", reply_to=asked["id"])
    assert record.status == "sent"
    body = scene.server.rest.bodies[-1]
    assert body["message_reference"] == {"message_id": asked["id"], "fail_if_not_exists": False}
    assert body["allowed_mentions"] == {"parse": []}
    assert body["enforce_nonce"] is True and 0 < len(body["nonce"]) <= 25
    assert body["content"] == "@everyone <@1001> <@&5902> look"


async def test_what_discord_shows_otherwise_is_written_otherwise(scene: Scene) -> None:
    await scene.says(DM, "__bold__\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    assert scene.server.texts(DM)[-1] == "**bold**\n\n```\na  b\n─  ─\n1  2\n```"


async def test_pain26_a_long_reply_comes_whole_and_in_order_never_cut_inside_a_code_fence(scene: Scene) -> None:
    code = "\n".join(f"print({number})" for number in range(600))
    text = "\n\n".join([*(f"{number} " + "word " * 60 for number in range(8)), f"```python\n{code}\n```", "end"])
    assert (await scene.says(THREAD, text)).status == "sent"
    parts = scene.server.texts(THREAD)
    assert len(parts) > 3 and all(len(part) <= 2000 and part.count("```") % 2 == 0 for part in parts)
    said = "".join(parts).replace("```python", "").replace("```", "")
    assert "".join(said.split()) == "".join(text.replace("```python", "").replace("```", "").split())


async def test_a_table_that_grows_by_its_formatting_still_fits(scene: Scene) -> None:
    rows = "\n".join(f"| {number} | {'x' * (number % 40)} |" for number in range(60))
    assert (await scene.says(THREAD, f"| n | text |\n|---|---|\n{rows}")).status == "sent"


async def test_a_file_goes_out_under_its_name(scene: Scene) -> None:
    handle = await scene.owner.put_blob(b"a,b\n1,2\n")
    file = Attachment(handle=handle, name="my table.csv", mime="text/csv", size_bytes=8)
    assert (await scene.says(OTHER, "here", attachments=(file,))).status == "sent"
    text, sent = scene.server.messages[OTHER][-2:]
    [got] = sent["attachments"]
    assert (text["content"], got["filename"], got["size"]) == ("here", "my_table.csv", 8)
    assert scene.server.files[got["url"].removeprefix(scene.server.url)] == b"a,b\n1,2\n"


async def test_pain04_a_file_whose_answer_was_lost_is_known_by_its_size(scene: Scene) -> None:
    handle = await scene.owner.put_blob(b"picture")
    file = Attachment(handle=handle, name="my picture.png", mime="image/png", size_bytes=7)
    scene.server.rest.fails_after.add("")
    scene.server.gateway.is_silent = True
    record = await scene.says(OTHER, "", attachments=(file,))
    scene.server.gateway.is_silent = False
    assert (record.status, record.platform_id) == ("sent", scene.server.messages[OTHER][-1]["id"])
    assert sum(bool(each["attachments"]) for each in scene.server.messages[OTHER][-2:]) <= 2
    assert not scene.server.rest.fails_after


async def test_what_discord_never_takes_ends_as_failed_with_a_reason(scene: Scene) -> None:
    scene.server.rest.mute.add(OTHER)
    muted = await scene.says(OTHER, "may I?")
    scene.server.rest.mute.clear()
    assert muted.status == "failed" and "Send Messages" in muted.error
    unknown = await scene.says(987654, "is anybody there?")
    assert unknown.status == "failed" and "Unknown Channel" in unknown.error


async def test_too_fast_for_one_channel_holds_that_channel_alone_for_as_long_as_it_says(scene: Scene) -> None:
    before = len(scene.server.sent)
    scene.server.rest.retry_after = [(1.5, False)]
    await scene.owner.publish(reply(1, "slow", GENERAL))
    await until(lambda: not scene.server.rest.retry_after)
    await scene.owner.publish(reply(1, "quick", OTHER))
    assert {each.status for each in await scene.ends(2)} == {"sent"}
    assert [text for _nonce, _channel, text in scene.server.sent[before:]] == ["quick", "slow"]


async def test_too_fast_for_everything_holds_everything(scene: Scene) -> None:
    before = now_ms()
    scene.server.rest.retry_after = [(1.5, True)]
    await scene.owner.publish(reply(2, "slow", GENERAL))
    await until(lambda: not scene.server.rest.retry_after)
    await scene.owner.publish(reply(2, "behind", OTHER))
    await scene.ends(2)
    assert now_ms() - before >= 1_400


async def test_a_longer_wait_is_the_ledgers_and_holds_nobody_else(scene: Scene) -> None:
    scene.server.rest.retry_after = [(7.0, False)]
    await scene.owner.publish(reply(3, "much later", GENERAL))
    await until(lambda: not scene.server.rest.retry_after)

    async def is_queued() -> bool:
        return (await scene.status()).queued == 1

    await until(is_queued)
    # Another one goes out meanwhile; and the part is not on its way, where a crash would leave it in doubt.
    assert (await scene.says(OTHER, "meanwhile")).status == "sent"
    assert "Discord says that we are too fast" in scene.made.log("discord")
    assert (await scene.end()).status == "sent"


async def test_the_limits_that_discord_tells_are_kept_so_that_it_never_says_too_fast(scene: Scene) -> None:
    scene.server.rest.period_s = 1.0
    refused = scene.server.rest.refused
    for number in range(12):
        await scene.owner.publish(reply(100 + number, f"{number}", DM))
    assert {each.status for each in await scene.ends(12)} == {"sent"}
    assert scene.server.texts(DM)[-12:] == [f"{number}" for number in range(12)]
    assert scene.server.rest.refused == refused


async def test_what_failed_before_it_was_taken_is_sent_again_though_the_same_words_stand_there_already(
    scene: Scene,
) -> None:
    first = await scene.says(GENERAL, "through")
    scene.server.rest.fails_with = [503, 502]
    posts = scene.server.rest.posts
    second = await scene.says(GENERAL, "through")
    assert (first.status, second.status) == ("sent", "sent") and first.platform_id != second.platform_id
    assert scene.server.rest.posts == posts + 3 and scene.server.texts(GENERAL).count("through") == 2


async def test_typing_is_shown_while_the_agent_is_at_work(scene: Scene) -> None:
    chat = f"discord:{DM}"
    presence = PresenceChanged(chat=chat, state="composing", run_id="r", expires_ms=now_ms() + 60_000)
    await scene.owner.publish(Draft(chat, presence))
    await until(lambda: scene.server.rest.typing == [DM])
