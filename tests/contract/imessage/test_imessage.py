"""The iMessage connector against a `chat.db` of the true tables, people who write into it, and an `osascript` that
fails, hangs, or reports success and delivers nothing."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

from tests.broker_process import OPEN_BUS
from tests.contract.listener import Listener
from tests.contract.processes import Installation, ask, installation, killed_again_and_again, until
from tests.fakes.messages_app import MessagesApp, apple_now

from microclaw.bus.api import Bus, Draft
from microclaw.bus.blobs import handle_of
from microclaw.bus.service import now_ms
from microclaw.core.ids import derived_id
from microclaw.core.kinds import Attachment, ChatsNamed, MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import ChannelStatus, ChannelStatusAsked

OSASCRIPT = Path(__file__).parents[2] / "fakes" / "osascript"
ANN, GROUP = "+491701", "chat77"
#: Messages each way in the test where all goes wrong; the whole of it: 300.
MESSAGES = int(os.environ.get("MC_CHANNEL_MESSAGES", "40"))


class Mac(NamedTuple):
    """What a test works with: the installation, the app, the owner's bus, what is heard, and how replies ended."""

    made: Installation
    app: MessagesApp
    owner: Bus
    heard: Listener[MessageReceived]
    ended: Listener[ReplyDelivered]


@asynccontextmanager
async def messages(*, started: bool = True, poll_ms: int = 100) -> AsyncIterator[Mac]:
    """The Mac, the broker and the connector."""
    async with installation("broker") as made:
        folder = made.root / "messages"
        folder.mkdir()
        app = MessagesApp(folder / "chat.db")
        app.chat(ANN)
        app.chat(GROUP, group=True, name="Family")
        made.env |= {"MC_FAKE_CHAT_DB": str(app.path)}
        made.home.config.write_text(OPEN_BUS + (
            f'[channels.imessage]\nenabled = true\ndatabase = "{app.path}"\nosascript = "{OSASCRIPT}"\n'
            f'poll_ms = {poll_ms}\noutbox = "{folder / "outbox"}"\n'
        ))
        owner = await made.connect("cli")
        if started:
            made.start("imessage")
            await until(lambda: is_connected(made, owner))
        watcher = await made.connect("watcher")
        yield Mac(
            made, app, owner, Listener(watcher, "router", MessageReceived), Listener(watcher, "ends", ReplyDelivered)
        )


async def is_connected(made: Installation, owner: Bus) -> bool:
    return (await status(owner)).state == "connected"


async def status(owner: Bus) -> ChannelStatus:
    return await ask(owner, "imessage", ChannelStatusAsked(), ChannelStatus)


def reply(number: int, text: str, chat: str = ANN, **more: object) -> Draft:
    wanted = ReplyRequested(chat=f"imessage:{chat}", text=text, **more)
    return Draft(wanted.chat, wanted, message_id=derived_id(1_700_000_000_000, chat, number), ts_ms=now_ms())


async def test_a_group_where_nobody_wrote_yet_is_known_by_its_name() -> None:
    async with messages() as mac:
        mac.app.chat("chat78", group=True)
        (named,) = await Listener(await mac.made.connect("names"), "names", ChatsNamed).take(1)
        assert {each.chat: each.name for each in named.chats} == {f"imessage:{GROUP}": "Family"}


async def test_messages_each_way_come_through_once_and_in_order_though_all_goes_wrong() -> None:
    """kill -9 at random, an osascript that fails, times out, vanishes, and rows that come late."""
    chance = random.Random(3)
    async with messages() as (made, app, owner, heard, ended):
        app.behave("chance")
        async with killed_again_and_again(made, "imessage", owner, chance) as kills:
            for number in range(MESSAGES):
                place = (ANN, GROUP)[number % 2]
                app.says(place, f"in {number}", in_body=number % 3 == 0)
                await owner.publish(reply(number, f"out {number}", place))
            messages_in = await heard_from_people(heard, MESSAGES)
        records = await ended.take(MESSAGES)
        assert kills
        for place in (ANN, GROUP):
            mine = [number for number in range(MESSAGES) if (ANN, GROUP)[number % 2] == place]
            said = [one.text for one in messages_in if one.chat == f"imessage:{place}"]
            assert said == [f"in {number}" for number in mine]
            sent = app.sent(place)
            assert len(sent) == len(set(sent)), "nothing is sent twice"
            ids = {derived_id(1_700_000_000_000, place, number): number for number in mine}
            states = {
                ids[bytes.fromhex(record.reply_id.replace("-", ""))]: record.status
                for record in records if record.chat == f"imessage:{place}"
            }
            assert set(states.values()) <= {"sent", "uncertain"}
            assert [text for text in sent if states[int(text.split()[1])] == "sent"] == [
                f"out {number}" for number in mine if states[number] == "sent"
            ]
        assert sum(record.status == "sent" for record in records) > MESSAGES * 0.9


async def heard_from_people(heard: Listener[MessageReceived], count: int) -> list[MessageReceived]:
    """So many messages of others; our own ones, which stand in the database too, are marked for ours."""
    found: list[MessageReceived] = []
    while len(found) < count:
        message = await heard.next()
        if message.from_me:
            assert message.is_own_reply, message
        else:
            found.append(message)
    return found


async def test_a_message_tells_who_where_and_what_it_answers() -> None:
    async with messages() as (_made, app, _owner, heard, _ended):
        first = app.says(GROUP, "who comes?", in_body=True)
        app.says(GROUP, "me", sender="bob@example.org", thread_originator_guid=first)
        app.says(ANN, "from my phone", sender="me")
        # The order is that of a chat; between chats there is none.
        one, two, three = sorted(await heard.take(3), key=lambda said: said.from_me)
        assert (one.chat, one.chat_name, one.is_group, one.sender, one.platform_id) == (
            f"imessage:{GROUP}", "Family", True, "+491701", first
        )
        assert abs(one.sent_ms - now_ms()) < 60_000
        assert two.quote is not None and (two.quote.id, two.quote.text) == (first, "who comes?")
        assert (three.from_me, three.is_own_reply, three.is_group, three.sender) == (True, False, False, "me")


async def test_tapbacks_and_what_one_wrote_to_oneself_are_no_messages_of_their_own() -> None:
    async with messages() as (_made, app, _owner, heard, _ended):
        app.says(ANN, "Loved “hello”", associated_message_type=2000)
        app.says(ANN, "", item_type=2)
        app.says(ANN, "note", sender="me@example.org", destination_caller_id="me@example.org")
        app.says(ANN, "real")
        assert [one.text for one in await heard.take(1)] == ["real"]


async def test_a_row_that_is_not_in_its_chat_yet_and_what_follows_it_wait_for_each_other() -> None:
    async with messages() as (_made, app, _owner, heard, _ended):
        guid = app.says(ANN, "first", joined=False)
        app.says(ANN, "second")
        await asyncio.sleep(0.5)
        app.join(GROUP, guid)
        assert [(one.text, one.chat) for one in await heard.take(2)] == [
            ("first", f"imessage:{GROUP}"), ("second", f"imessage:{ANN}"),
        ]


async def test_an_edit_is_told_once_with_the_new_text_and_a_withdrawal_as_such() -> None:
    async with messages() as (made, app, _owner, heard, _ended):
        guid, other = app.says(ANN, "tipo"), app.says(ANN, "wrong person")
        await heard.take(2)
        app.change(guid, text="typo", date_edited=apple_now())
        [edit] = await heard.take(1)
        assert (edit.platform_id, edit.text, edit.is_edit) == (guid, "typo", True)
        made.kill("imessage")
        made.start("imessage")
        app.change(other, text=None, date_retracted=apple_now())
        [gone] = await heard.take(1)
        assert (gone.platform_id, gone.text, gone.is_edit) == (other, "[withdrawn]", True)
        app.says(ANN, "end")
        assert [one.text for one in await heard.take(1)] == ["end"]


async def test_pain28_a_file_comes_by_handle_once_it_is_all_there_and_one_too_large_is_named() -> None:
    async with messages() as (made, app, owner, heard, _ended):
        photo = made.root / "photo.jpeg"
        data = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(1000)
        guid = app.says(ANN, "\ufffc look", cache_has_attachments=1)
        app.attach(guid, photo, arrived=False)
        await asyncio.sleep(0.3)
        photo.write_bytes(data)
        app.run("UPDATE attachment SET transfer_state = 5, total_bytes = 1020")
        [one] = await heard.take(1)
        assert one.text == "look"
        assert one.attachments == (
            Attachment(handle=handle_of(data), name="photo.jpeg", mime="image/jpeg", size_bytes=len(data)),
        )
        assert await owner.get_blob(one.attachments[0].handle) == data
        big = made.root / "film.mov"
        with big.open("wb") as file:
            file.truncate(30 << 20)
        app.attach(app.says(ANN, "", cache_has_attachments=1), big)
        [two] = await heard.take(1)
        assert not two.attachments and "film.mov" in two.text and "too large" in two.text


async def test_pain01_pain03_what_was_written_while_we_were_away_comes_and_what_is_older_than_us_does_not() -> None:
    async with messages(started=False) as (made, app, owner, heard, _ended):
        app.says(ANN, "history")
        made.start("imessage")
        await until(lambda: is_connected(made, owner))
        made.kill("imessage")
        app.says(ANN, "one")
        app.says(ANN, "two")
        made.start("imessage")
        assert [one.text for one in await heard.take(2)] == ["one", "two"]


async def test_news_is_seen_when_the_database_is_written_to_long_before_the_next_look() -> None:
    async with messages(poll_ms=60_000) as (_made, app, _owner, heard, _ended):
        async with asyncio.timeout(30):
            for number in range(3):
                app.says(ANN, f"{number}")
                assert (await heard.next()).text == f"{number}"


async def test_pain05_a_database_made_anew_is_told_and_nothing_is_taken_twice() -> None:
    async with messages() as (made, app, owner, heard, _ended):
        old = [app.says(ANN, f"old {number}") for number in range(5)]
        await heard.take(5)

        def is_reached() -> bool:
            with closing(sqlite3.connect(made.home.database("imessage"))) as db:
                return '"rowid":5,' in db.execute("SELECT value FROM channel_notes WHERE key = 'row'").fetchone()[0]

        await until(is_reached)
        made.kill("imessage")
        app.run("UPDATE message SET ROWID = -ROWID; UPDATE chat_message_join SET message_id = -message_id;"
                "UPDATE message SET ROWID = 6 + ROWID; UPDATE chat_message_join SET message_id = 6 + message_id;"
                "DELETE FROM message WHERE ROWID <= 2; DELETE FROM sqlite_sequence;")
        app.says(ANN, "new")
        made.start("imessage")
        assert [one.text for one in await heard.take(1)] == ["new"]
        assert "made anew" in (await made.ready(owner, "imessage")).troubles[0]
        assert len(old) == 5


async def test_pain06_a_reply_is_sent_plain_in_its_chat_and_known_for_our_own_when_it_comes_back() -> None:
    async with messages() as (_made, app, owner, heard, ended):
        nasty = 'It\'s "done": $(rm -rf ~) `x` \\ -e end\n**bold**'
        await owner.publish(reply(1, nasty, GROUP), reply(2, "-n starts like an option"))
        assert [end.status for end in await ended.take(2)] == ["sent", "sent"]
        assert app.sent(GROUP) == ['It\'s "done": $(rm -rf ~) x \\ -e end\nbold']
        assert app.sent(ANN) == ["-n starts like an option"]
        assert all(one.from_me and one.is_own_reply for one in await heard.take(2))


async def test_pain26_a_long_reply_comes_whole_and_in_order_in_parts_that_messages_takes() -> None:
    async with messages() as (_made, app, owner, _heard, ended):
        paragraphs = [f"{number} {'word ' * 150}".strip() for number in range(12)]
        await owner.publish(reply(1, "\n\n".join(paragraphs)))
        assert [end.status for end in await ended.take(1)] == ["sent"]
        sent = app.sent(ANN)
        assert len(sent) == 3 and max(map(len, sent)) <= 4000
        assert "\n\n".join(sent).split() == " ".join(paragraphs).split()


async def test_a_file_goes_out_under_its_name() -> None:
    async with messages() as (made, app, owner, _heard, ended):
        handle = await owner.put_blob(b"%PDF-1.7 plan")
        file = Attachment(handle=handle, name="plan.pdf", mime="application/pdf", size_bytes=13)
        await owner.publish(reply(1, "here", attachments=(file,)))
        assert [end.status for end in await ended.take(1)] == ["sent"]
        [path] = (made.root / "messages" / "outbox").iterdir()
        assert path.name.endswith("plan.pdf") and path.read_bytes() == b"%PDF-1.7 plan"
        assert len(app.sent(ANN)) == 2
        # A week later our copy of it is gone, and nobody else's file.
        made.kill("imessage")
        other = path.with_name("other.pdf")
        other.touch()
        with closing(sqlite3.connect(made.home.database("imessage"))) as db, db:
            past = "value = json_set(value, '$.begun_ms', 1), changed_ms = 1"
            db.execute(f"UPDATE channel_notes SET {past} WHERE kind = 'mark'")
        made.start("imessage")
        await until(lambda: not path.exists())
        assert other.exists()


async def test_pain02_success_without_a_row_is_tried_again_and_in_the_end_uncertain_and_told() -> None:
    async with messages() as (_made, app, owner, _heard, ended):
        app.behave("vanish", "ok", "vanish", "vanish", "vanish")
        await owner.publish(reply(1, "second try"))
        assert [end.status for end in await ended.take(1)] == ["sent"]
        assert app.sent(ANN) == ["second try"]
        await owner.publish(reply(2, "never"))
        [end] = await ended.take(1)
        assert end.status == "uncertain" and app.sent(ANN) == ["second try"]
        assert (await status(owner)).uncertain == 1


async def test_a_chat_that_messages_does_not_know_is_refused_and_one_that_does_not_run_is_waited_for() -> None:
    async with messages() as (_made, app, owner, _heard, ended):
        app.behave("fail:-1728", "fail:-600", "ok")
        await owner.publish(reply(1, "a"), reply(2, "b"))
        first, second = await ended.take(2)
        assert (first.status, second.status) == ("failed", "sent")
        assert "no such conversation" in first.error
        assert app.sent(ANN) == ["b"]
        await owner.publish(reply(3, "c", "+490000"))
        assert [end.status for end in await ended.take(1)] == ["failed"]


async def test_pain04_an_osascript_of_an_earlier_life_is_waited_for_and_its_row_is_taken_for_ours() -> None:
    async with messages() as (made, app, owner, _heard, ended):
        app.behave("hang", "ok")
        await owner.publish(reply(1, "slow"))
        lock = made.home.run / "osascript.lock"
        await until(lambda: lock.exists() and lock.read_text().isdigit())
        made.kill("imessage")
        # What hangs comes to its end after all: its row is there, under our text.
        app.says(ANN, "slow", sender="me")
        os.killpg(int(lock.read_text()), 9)
        made.start("imessage")
        assert [end.status for end in await ended.take(1)] == ["sent"]
        assert app.sent(ANN) == ["slow"]


async def test_pain40_no_access_and_unknown_tables_are_said_plainly_and_not_taken_for_connected() -> None:
    async with messages() as (made, app, owner, _heard, _ended):
        app.run("ALTER TABLE message RENAME COLUMN guid TO uid")

        async def refuses() -> bool:
            seen = await status(owner)
            return seen.state == "logged_out" and "message.guid" in seen.trouble

        await until(refuses)
        made.stop("imessage")
        app.path.unlink()
        app.path.mkdir()
        made.start("imessage")

        async def waits() -> bool:
            seen = await status(owner)
            return seen.state == "waiting" and "chat.db" in seen.trouble

        await until(waits)


async def test_messages_own_checkpoints_are_not_held_up_by_us() -> None:
    async with messages() as (_made, app, _owner, heard, _ended):
        for number in range(50):
            app.says(ANN, f"{number}")
        await heard.take(50)
        until_s = time.monotonic() + 30
        db = sqlite3.connect(app.path)
        while (busy := db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) and time.monotonic() < until_s:
            await asyncio.sleep(0.02)
        db.close()
        assert not busy
