"""The connectors' library, by a whole connector (`tests.fakes.chirp_connector`) over the real broker: everything that a
platform's people write comes in once, every reply goes out once or is known to be uncertain."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.contract.processes import Installation, ask, installation, killed_again_and_again, until
from tests.fakes.chirp_server import ChirpServer

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.service import now_ms
from microclaw.channel.link import SLEEP_CHECK_S
from microclaw.core.ids import derived_id, id_text
from microclaw.core.kinds import Attachment, MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked

SENT_MS = 1_700_000_000_000
#: Messages each way in the test where all goes wrong; the whole of it: 300.
MESSAGES = int(os.environ.get("MC_CHANNEL_MESSAGES", "120"))


@asynccontextmanager
async def chirping(chance: random.Random | None = None) -> AsyncIterator[tuple[Installation, ChirpServer, Bus, Bus]]:
    """The platform, the broker and the connector; (…, the owner's bus, a watcher's)."""
    server = await ChirpServer(chance).start()
    try:
        async with installation("broker") as made:
            made.programs["chirp"] = ["tests.fakes.chirp_connector", f"127.0.0.1:{server.port}"]
            made.start("chirp")
            yield made, server, await made.connect("cli"), await made.connect("watcher")
    finally:
        await server.stop()


def reply(number: int, text: str, chat: str = "chirp:a", written_ms: int | None = None, **more: object) -> Draft:
    ts_ms = now_ms() if written_ms is None else written_ms
    wanted = ReplyRequested(chat=chat, text=text, **more)
    return Draft(chat, wanted, message_id=derived_id(SENT_MS, chat, number), ts_ms=ts_ms)


async def heard(watcher: Bus, count: int) -> list[MessageReceived]:
    """So many `message.received`, in order."""
    found: list[MessageReceived] = []
    async for delivery in watcher.subscribe(Subscription("router", ("message.received",))):
        found.append(delivery.envelope.read(MessageReceived))
        await watcher.ack(delivery)
        if len(found) == count:
            break
    return found


async def ends(watcher: Bus, count: int) -> dict[str, ReplyDelivered]:
    """So many `reply.delivered`, by reply id; fails if one comes twice."""
    found: dict[str, ReplyDelivered] = {}
    async for delivery in watcher.subscribe(Subscription("watcher", ("reply.delivered",))):
        end = delivery.envelope.read(ReplyDelivered)
        await watcher.ack(delivery)
        assert end.reply_id not in found
        found[end.reply_id] = end
        if len(found) == count:
            return found
    raise AssertionError("the bus was closed")


async def status(made: Installation, bus: Bus) -> ChannelStatus:
    return await ask(bus, "chirp", ChannelStatusAsked(), ChannelStatus)


async def test_messages_each_way_come_through_once_and_in_order_though_all_goes_wrong() -> None:
    """kill -9 at random, dropped connections, repeats, "too fast", answers that are lost."""
    chance, count, chats = random.Random(7), MESSAGES, ("a", "b", "c")
    async with chirping(random.Random(8)) as (made, server, owner, watcher):
        async with killed_again_and_again(made, "chirp", owner, chance) as kills:
            for number in range(count):
                server.says(chats[number % 3], f"in {number}", SENT_MS + number)
                await owner.publish(reply(number, f"out {number}", f"chirp:{chats[number % 3]}"))
            heard: list[tuple[str, str]] = []
            async for delivery in watcher.subscribe(Subscription("router", ("message.received",))):
                message = delivery.envelope.read(MessageReceived)
                heard.append((message.chat, message.text))
                await watcher.ack(delivery)
                if len(heard) == count:
                    break
            records = await ends(watcher, count)
        assert kills
        for chat in chats:
            mine = [number for number in range(count) if chats[number % 3] == chat]
            assert [text for there, text in heard if there == f"chirp:{chat}"] == [f"in {number}" for number in mine]
            assert server.texts(f"chirp:{chat}") == [f"out {number}" for number in mine]
        assert {record.status for record in records.values()} == {"sent"}


async def test_pain01_the_platform_is_told_that_we_have_a_message_only_after_the_journal_has_it() -> None:
    async with chirping() as (made, server, _owner, watcher):
        await until(lambda: server.is_connected)
        made.kill("broker")
        server.says("a", "hello", SENT_MS)
        await asyncio.sleep(0.5)  # time enough to say that it has it, were it to
        made.kill("chirp")
        assert server.acknowledged == []
        made.start("broker")
        made.start("chirp")
        assert [message.text for message in await heard(watcher, 1)] == ["hello"]
        await until(lambda: server.acknowledged == [1])


async def test_pain02_a_reply_whose_connector_was_killed_before_it_could_send_it_is_sent_by_the_next() -> None:
    async with chirping() as (made, server, owner, watcher):
        server.retry_after = [30.0]
        await owner.publish(reply(1, "hello"))
        await until(lambda: not server.retry_after)
        made.kill("chirp")
        made.start("chirp")
        [record] = (await ends(watcher, 1)).values()
        assert record.status == "sent" and server.texts("chirp:a") == ["hello"]


async def test_pain05_what_a_platform_tells_twice_is_one_message_though_it_tells_it_in_other_words() -> None:
    async with chirping() as (_made, server, _owner, watcher):
        await until(lambda: server.is_connected)
        server.says("a", "hello", SENT_MS)
        server.repeats(1)
        server.repeats(1, text="hello, in other words")
        server.says("a", "over", SENT_MS + 1)
        assert [message.text for message in await heard(watcher, 2)] == ["hello", "over"]


async def test_pain06_replies_of_many_chats_at_once_each_go_to_their_own() -> None:
    async with chirping() as (_made, server, owner, watcher):
        chats = [f"chirp:{number}" for number in range(10)]
        await owner.publish(*(reply(turn, f"{turn} to {chat}", chat) for turn in range(3) for chat in chats))
        await ends(watcher, 30)
        for chat in chats:
            assert server.texts(chat) == [f"{turn} to {chat}" for turn in range(3)]


async def test_pain10_a_quiet_platform_is_connected_and_stays_so() -> None:
    async with chirping() as (made, server, owner, _watcher):
        await until(lambda: server.is_connected)
        # Longer than the pause after which a connection could be taken for new.
        await asyncio.sleep(SLEEP_CHECK_S + 1.0)
        seen = await status(made, owner)
        assert (seen.state, seen.failures, server.welcomed) == ("connected", 0, 1)


async def test_pain04_a_part_whose_answer_was_lost_is_looked_up_and_not_sent_again() -> None:
    async with chirping() as (_made, server, owner, watcher):
        server.breaks_after.add("hello")
        await owner.publish(reply(1, "hello"))
        [record] = (await ends(watcher, 1)).values()
        assert (record.status, record.platform_id) == ("sent", "0")
        assert server.texts("chirp:a") == ["hello"]


async def test_pain04_a_part_that_nobody_can_tell_of_is_uncertain_and_never_sent_again() -> None:
    async with chirping() as (made, server, owner, watcher):
        server.forgetful = True
        server.breaks_after.add("hello")
        await owner.publish(reply(1, "hello"), reply(2, "next"))
        first, second = (await ends(watcher, 2)).values()
        assert (first.status, second.status) == ("uncertain", "sent")
        assert "may have arrived" in first.error
        made.kill("chirp")
        made.start("chirp")
        assert (await status(made, owner)).uncertain == 1
        assert server.texts("chirp:a") == ["hello", "next"]


async def test_what_the_platform_refuses_ends_as_failed_with_its_reason_and_the_next_goes_out() -> None:
    async with chirping() as (_made, server, owner, watcher):
        server.refuses.add("bad")
        await owner.publish(reply(1, "bad"), reply(2, "good"))
        first, second = (await ends(watcher, 2)).values()
        assert (first.status, first.error, second.status) == ("failed", "not here", "sent")


async def test_a_text_that_the_broker_would_never_take_is_cut_and_holds_nothing_up() -> None:
    async with chirping() as (_made, server, _owner, watcher):
        server.says("a", "é" * 1_500_000, SENT_MS)
        server.says("a", "next", SENT_MS + 1)
        heard: list[str] = []
        async for delivery in watcher.subscribe(Subscription("router", ("message.received",))):
            heard.append(delivery.envelope.read(MessageReceived).text)
            await watcher.ack(delivery)
            if len(heard) == 2:
                break
        assert heard == [f"{'é' * 100_000}\n[cut: 1400000 more characters]", "next"]


async def test_a_file_goes_out_and_one_that_is_not_kept_any_more_fails_and_holds_nothing_up() -> None:
    async with chirping() as (_made, server, owner, watcher):
        file = Attachment(handle=await owner.put_blob(b"plan"), name="a.txt", mime="text/plain", size_bytes=4)
        gone = Attachment(handle=f"sha256:{'0' * 64}", name="b.txt", mime="text/plain", size_bytes=4)
        await owner.publish(
            reply(1, "here", attachments=(file,)), reply(2, "and", attachments=(gone,)), reply(3, "next"),
        )
        records = await ends(watcher, 3)
        assert [record.status for record in records.values()] == ["sent", "failed", "sent"]
        assert server.texts("chirp:a") == ["here", "a.txt: 4 bytes", "and", "next"]


async def test_a_platform_that_says_wait_is_waited_for_and_another_chat_is_not_held_up() -> None:
    async with chirping() as (_made, server, owner, watcher):
        server.retry_after = [1.5]
        await owner.publish(reply(1, "slow", "chirp:slow"))
        await until(lambda: not server.retry_after)
        await owner.publish(reply(1, "quick", "chirp:quick"))
        await ends(watcher, 2)
        assert [text for _key, _chat, text in server.sent] == ["quick", "slow"]


async def test_pain26_a_long_reply_goes_out_whole_in_order_each_part_once_though_a_part_fails_on_the_way() -> None:
    async with chirping() as (_made, server, owner, watcher):
        text = "\n\n".join(f"{number} " + "word " * 20 for number in range(12))
        server.retry_after = [0.1]
        await owner.publish(reply(1, text))
        [record] = (await ends(watcher, 1)).values()
        assert record.status == "sent"
        assert "".join("".join(server.texts("chirp:a")).split()) == "".join(text.split())
        assert len(server.sent) == len({key for key, _chat, _text in server.sent}) > 5


async def test_pain03_a_reply_of_long_ago_is_not_sent_any_more_and_one_of_a_while_ago_says_so() -> None:
    async with chirping() as (_made, server, owner, watcher):
        hour_ms = 3_600_000
        await owner.publish(
            reply(1, "yesterday's", written_ms=now_ms() - 30 * hour_ms),
            reply(2, "late", written_ms=now_ms() - 3 * hour_ms), reply(3, "over", expires_ms=now_ms() - 1),
        )
        records = await ends(watcher, 3)
        assert [record.status for record in records.values()] == ["expired", "sent", "expired"]
        assert server.texts("chirp:a") == ["(written 3 h 0 min ago)\n\nlate"]


async def test_pain02_pain09_a_platform_that_is_away_keeps_nobody_from_starting_and_gets_everything_later() -> None:
    server = ChirpServer()
    await server.start()
    await server.stop()
    async with installation("broker") as made:
        made.programs["chirp"] = ["tests.fakes.chirp_connector", f"127.0.0.1:{server.port}"]
        made.start("chirp")
        owner, watcher = await made.connect("cli"), await made.connect("watcher")
        await owner.publish(reply(1, "hello"))

        async def waits() -> bool:
            seen = await status(made, owner)
            return seen.state == "waiting" and "can't be reached" in seen.trouble and seen.failures > 0

        await until(waits)
        await server.start()
        assert [end.status for end in (await ends(watcher, 1)).values()] == ["sent"]
        seen = await status(made, owner)
        assert (seen.state, seen.account, seen.failures, seen.sent, seen.queued) == ("connected", "bird", 0, 1, 0)
        await server.stop()


async def test_a_platform_that_throws_us_out_is_told_to_the_owner() -> None:
    async with chirping() as (made, server, owner, _watcher):
        await until(lambda: bool(server._open))
        server.refused_token = "the token is wrong"
        server.drop()

        async def logged_out() -> bool:
            return (await status(made, owner)).state == "logged_out"

        await until(logged_out)
        assert "the token is wrong" in (await made.ready(owner, "chirp")).troubles[0]


async def test_a_stop_leaves_nothing_in_doubt() -> None:
    async with chirping() as (made, server, owner, watcher):
        server.forgetful = True
        for number in range(60):
            await owner.publish(reply(number, f"{number}"))
            if number % 20 == 10:
                await until(lambda: bool(server.sent))
                await made.ready(owner, "chirp")
                # In a thread: the platform lives in this loop, and must be able to answer meanwhile.
                assert await asyncio.to_thread(made.stop, "chirp") == 0
                made.start("chirp")
        records = await ends(watcher, 60)
        assert {record.status for record in records.values()} == {"sent"}
        assert server.texts("chirp:a") == [f"{number}" for number in range(60)]
        assert list(records) == [id_text(derived_id(SENT_MS, "chirp:a", number)) for number in range(60)]
