"""The console connector over the real broker: what is typed goes in once, replies come out once, in order."""

from __future__ import annotations

import asyncio
import random

from tests.contract.processes import DEADLINE_S, ask, installation, killed_again_and_again

from microclaw.bus.api import Draft, Subscription
from microclaw.core.ids import derived_id, id_text
from microclaw.core.kinds import Attachment, MessageReceived, ReplyDelivered, ReplyRequested
from microclaw.core.requests import Failed, Lines, Read, Said, Say

CHAT = "console:main"
SENT_MS = 1_700_000_000_000


def reply(number: int, text: str, chat: str = CHAT, **more: object) -> Draft:
    wanted = ReplyRequested(chat=chat, text=text, **more)
    return Draft(chat, wanted, message_id=derived_id(SENT_MS, chat, number), ts_ms=SENT_MS)


async def test_what_is_typed_is_in_the_journal_once_however_often_it_is_asked() -> None:
    async with installation("broker", "console") as made:
        typist, router = await made.connect("cli"), await made.connect("router")
        say = Say(chat=CHAT, text="hello", platform_id="line-1")
        first = await ask(typist, "console", say, Said)
        made.kill("console")
        made.start("console")
        assert await ask(typist, "console", say, Said) == first
        second = await ask(typist, "console", Say(chat=CHAT, text="bye", platform_id="line-2"), Said)
        assert (first.seq, second.seq) == (1, 2)
        got: list[MessageReceived] = []
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in router.subscribe(Subscription("router", ("message.received",))):
                assert delivery.envelope.source == "console" and delivery.envelope.session_id == CHAT
                got.append(delivery.envelope.read(MessageReceived))
                await router.ack(delivery)
                if len(got) == 2:
                    break
        assert [(one.platform_id, one.text, one.sender_name, one.is_group) for one in got] == [
            ("line-1", "hello", "Owner", False), ("line-2", "bye", "Owner", False),
        ]


async def test_what_can_not_be_said_is_refused_with_the_reason() -> None:
    async with installation("broker", "console") as made:
        typist = await made.connect("cli")
        assert await ask(typist, "console", Say(chat=CHAT, text="a", platform_id="1"), Said) == Said(seq=1)
        for say, word in (
            (Say(chat=CHAT, text="other", platform_id="1"), "already used"),
            (Say(chat="telegram:1", text="a", platform_id="2"), "console:NAME"),
            (Say(chat=CHAT, text=" \n", platform_id="3"), "nothing to say"),
            (Say(chat=CHAT, text="a" * 200_000, platform_id="4"), "at most"),
            (Say(chat=CHAT, text="a", platform_id=""), "platform_id"),
        ):
            refused = await ask(typist, "console", say, Said | Failed)
            assert isinstance(refused, Failed) and word in refused.reason


async def test_a_reader_waits_for_the_next_line_and_gets_it_at_once() -> None:
    async with installation("broker", "console") as made:
        reader, sandbox = await made.connect("cli"), await made.connect("sandbox")
        await made.ready(reader, "console")
        empty = await ask(reader, "console", Read(chat=CHAT, wait_ms=50), Lines)
        assert empty == Lines(lines=(), last=0)
        waiting = asyncio.create_task(reader.request("console", Read(chat=CHAT, wait_ms=20_000), Lines, timeout_s=30))
        elsewhere = asyncio.create_task(
            reader.request("console", Read(chat="console:other", wait_ms=1_000), Lines, timeout_s=30)
        )
        await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        await sandbox.publish(reply(1, "<internal>hm</internal>hello"))
        lines = await waiting
        assert asyncio.get_running_loop().time() - begun < 10
        [line] = lines.lines
        assert (line.number, line.text, line.origin, lines.last) == (1, "hello", "answer", 1)
        assert line.reply_id == id_text(derived_id(SENT_MS, CHAT, 1))
        assert (await elsewhere).lines == ()
        assert await ask(reader, "console", Read(chat=CHAT, only_last=True), Lines) == Lines(lines=(), last=1)


async def test_a_reply_past_its_time_or_without_content_is_recorded_and_not_shown() -> None:
    async with installation("broker", "console") as made:
        reader, sandbox, watcher = [await made.connect(name) for name in ("cli", "sandbox", "watcher")]
        file = Attachment(handle="sha256:0", name="plan.pdf", mime="application/pdf", size_bytes=3)
        await sandbox.publish(
            reply(1, "too late", expires_ms=SENT_MS), reply(2, "<internal>only thoughts</internal>"),
            reply(3, "here", attachments=(file,)), reply(4, "elsewhere", chat="telegram:1"),
        )
        records: list[ReplyDelivered] = []
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in watcher.subscribe(Subscription("watcher", ("reply.delivered",))):
                records.append(delivery.envelope.read(ReplyDelivered))
                await watcher.ack(delivery)
                if len(records) == 3:
                    break
        assert [(one.status, one.platform_id) for one in records] == [("expired", ""), ("failed", ""), ("sent", "1")]
        lines = await ask(reader, "console", Read(chat=CHAT), Lines)
        assert [line.text for line in lines.lines] == ["here\n[file: plan.pdf]"]


async def test_every_reply_is_shown_once_and_in_order_though_the_console_is_killed_again_and_again() -> None:
    chance = random.Random(3)
    count = 150
    async with installation("broker", "console") as made:
        reader, sandbox, watcher = [await made.connect(name) for name in ("cli", "sandbox", "watcher")]

        async def answer() -> None:
            for number in range(count):
                await sandbox.publish(reply(number, f"line {number}"))
                await asyncio.sleep(chance.random() * 0.02)

        seen: list[tuple[int, str]] = []
        async with killed_again_and_again(made, "console", reader, chance) as kills:
            await answer()
            while len(seen) < count:
                more = await ask(reader, "console", Read(chat=CHAT, after=len(seen), wait_ms=1_000), Lines)
                seen += [(line.number, line.text) for line in more.lines]
        assert kills
        assert seen == [(number + 1, f"line {number}") for number in range(count)]
        records: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in watcher.subscribe(Subscription("watcher", ("reply.delivered",))):
                records.append(delivery.envelope.read(ReplyDelivered).reply_id)
                await watcher.ack(delivery)
                if len(records) == count:
                    break
        assert records == [id_text(derived_id(SENT_MS, CHAT, number)) for number in range(count)]


async def test_the_assistants_name_stands_before_its_words_where_the_configuration_says_so() -> None:
    async with installation("broker") as made:
        made.home.config.write_text('[assistant]\nname = "Bo"\nprefix = true\n')
        made.start("console")
        reader, sandbox = await made.connect("cli"), await made.connect("sandbox")
        await sandbox.publish(reply(1, "hello"))
        lines = await ask(reader, "console", Read(chat=CHAT, wait_ms=20_000), Lines)
        while not lines.lines:
            lines = await ask(reader, "console", Read(chat=CHAT, wait_ms=20_000), Lines)
        assert [line.text for line in lines.lines] == ["Bo: hello"]
