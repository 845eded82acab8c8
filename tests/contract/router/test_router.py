"""The router between a real connector and a real queue, over the real broker."""

from __future__ import annotations

import asyncio
import random

import msgspec
from tests.contract.processes import DEADLINE_S, ask, installation, killed_again_and_again, until

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.core.ids import derived_id
from microclaw.core.kinds import MessageReceived, ReplyRequested, RunRequested
from microclaw.core.people_requests import AnswerPairing, Paired, Pairings, PairingsAsked
from microclaw.core.requests import Deliver, Done, Failed, GroupAnswer, Groups, GroupsAsked, RegisterGroup

SENT_MS = 1_700_000_000_000


def message(chat: str, number: int, text: str = "hello", **more: object) -> Draft:
    received = MessageReceived(
        chat=chat, platform_id=str(number), sender="ann", sender_name="Ann", text=text,
        sent_ms=SENT_MS + number, **more,
    )
    return Draft(chat, received, message_id=derived_id(SENT_MS + number, chat, number), ts_ms=SENT_MS)


async def requests(bus: Bus, messages: int) -> list[RunRequested]:
    """What the queue is given, until so many messages came."""
    found: list[RunRequested] = []
    async with asyncio.timeout(DEADLINE_S):
        async for delivery in bus.subscribe(Subscription("queue", ("run.requested",))):
            run = delivery.envelope.read(RunRequested)
            assert delivery.envelope.session_id == f"group:{run.group}"
            assert delivery.envelope.source == "router"
            found.append(run)
            await bus.ack(delivery)
            if sum(len(run.messages) for run in found) >= messages:
                return found
    raise AssertionError


async def register(bus: Bus, chat: str, folder: str, **more: object) -> GroupAnswer | Failed:
    wanted = RegisterGroup(command_id=f"c-{chat}-{folder}", chat=chat, folder=folder, name=folder.title(), **more)
    return await ask(bus, "router", wanted, GroupAnswer | Failed)


async def test_a_message_in_the_console_becomes_a_run_of_the_main_group() -> None:
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("console", "queue", "cli")]
        await connector.publish(message("console:main", 1, "hi there", chat_name="Desk"))
        [run] = await requests(queue, 1)
        assert (run.group, run.chat, run.is_main) == ("main", "console:main", True)
        [prompt] = run.messages
        assert (prompt.id, prompt.sender_name, prompt.text, prompt.sent_ms) == ("1", "Ann", "hi there", SENT_MS + 1)
        for file in ("main/CLAUDE.md", "main/logs", "global/CLAUDE.md"):
            assert (made.home.groups / file).exists()
        groups = await ask(owner, "router", GroupsAsked(), Groups)
        [main] = groups.groups
        assert (main.chat, main.folder, main.is_main) == ("console:main", "main", True)
        assert [(chat.name, chat.registered) for chat in groups.chats] == [("Desk", True)]
        assert made.stop("router") == 0


async def test_a_group_wakes_by_its_trigger_and_gets_all_that_was_said_before() -> None:
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("telegram", "queue", "cli")]
        await connector.publish(message("telegram:-1", 1, "before it was registered", is_group=True))

        async def heard_of() -> bool:
            return len((await ask(owner, "router", GroupsAsked(), Groups)).chats) == 2

        await until(heard_of)
        assert isinstance(await register(owner, "telegram:-1", "family", trigger="@Bob"), GroupAnswer)
        await connector.publish(
            message("telegram:-1", 2, "first"),
            message("telegram:-1", 3, "@Andy not me"),
            message("telegram:-1", 4, "Bob: an answer of ours", is_own_reply=True, from_me=True),
            message("telegram:-1", 5, "@bob second"),
            message("telegram:-1", 6, "later"),
            message("telegram:-2", 7, "@Bob from a stranger's chat"),
        )
        [run] = await requests(queue, 3)
        assert [line.id for line in run.messages] == ["2", "3", "5"]
        assert (run.group, run.is_main) == ("family", False)
        groups = await ask(owner, "router", GroupsAsked(), Groups)
        assert {chat.chat: chat.registered for chat in groups.chats} == {
            "telegram:-1": True, "telegram:-2": False, "console:main": True,
        }


async def test_what_its_platform_says_is_for_us_wakes_a_group_whatever_its_trigger() -> None:
    async with installation("broker", "router") as made:
        owner, queue = await made.connect("cli"), await made.connect("queue")
        await register(owner, "telegram:-1", "fam", trigger="!crab")
        await owner.publish(
            message("telegram:-1", 1, "hm"), message("telegram:-1", 2, "what do you think?", is_for_us=True)
        )
        [run] = await requests(queue, 2)
        assert [each.text for each in run.messages] == ["hm", "what do you think?"]


async def test_an_edit_renews_what_waits_may_wake_and_never_answers_twice() -> None:
    def edit(number: int, text: str) -> Draft:
        changed = message("telegram:1", number, text, is_edit=True)
        return Draft(changed.session_id, changed.payload, message_id=derived_id(SENT_MS, "edit", number, text))

    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("telegram", "queue", "cli")]
        await register(owner, "telegram:1", "family")
        await connector.publish(
            message("telegram:1", 1, "farst"), edit(1, "first"),
            message("telegram:1", 2, "second"), edit(2, "@Andy second"),
            edit(2, "@Andy second, changed after it was handed over"),
            message("telegram:1", 3, "@Andy third"),
        )
        runs = await requests(queue, 3)
        assert [[line.text for line in run.messages] for run in runs] == [["first", "@Andy second"], ["@Andy third"]]


async def test_long_silence_is_handed_over_in_parts_below_the_limit() -> None:
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("telegram", "queue", "cli")]
        await register(owner, "telegram:1", "big")
        for start in range(0, 600, 100):
            await connector.publish(*(message("telegram:1", n, "&" * 10_000) for n in range(start, start + 100)))
        await connector.publish(message("telegram:1", 600, "@Andy go"))
        runs = await requests(queue, 601)
        assert [int(line.id) for run in runs for line in run.messages] == list(range(601))
        assert len(runs) > 100, "more than one frame's worth goes before the acknowledgement"


async def test_each_message_is_in_exactly_one_run_though_the_router_is_killed_again_and_again() -> None:
    chance = random.Random(2)
    chats, each = 5, 40
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("telegram", "queue", "cli")]
        for number in range(chats):
            await register(owner, f"telegram:{number}", f"g{number}", requires_trigger=number % 2 == 0)

        async def write() -> None:
            for n in range(each):
                for number in range(chats):
                    text = "@Andy now" if n % 5 == 4 else "and"
                    await connector.publish(message(f"telegram:{number}", n, text))
                    await asyncio.sleep(chance.random() * 0.02)

        async with killed_again_and_again(made, "router", owner, chance) as kills:
            runs, _ = await asyncio.gather(requests(queue, chats * each), write())
        assert kills
        got = {f"g{number}": [] for number in range(chats)}  # type: dict[str, list[int]]
        for run in runs:
            got[run.group] += [int(line.id) for line in run.messages]
        assert got == {f"g{number}": list(range(each)) for number in range(chats)}
        status = await made.ready(owner, "router")
        assert not status.troubles


async def test_registration_is_refused_with_the_reason_and_repeats_take_effect_once() -> None:
    async with installation("broker", "router") as made:
        owner, stranger = await made.connect("cli"), await made.connect("stranger")
        first = await register(owner, "telegram:1", "family", requires_trigger=False)
        assert first == await register(owner, "telegram:1", "family", requires_trigger=False)
        assert isinstance(first, GroupAnswer) and first.group.requires_trigger is False and not first.group.is_main
        taken = await register(owner, "telegram:2", "FAMILY")
        assert isinstance(taken, Failed) and taken.code == "conflict" and "telegram:1" in taken.reason
        for folder in ("../escaped", "global", "", "-x", "a" * 65, "a b"):
            refused = await register(owner, "telegram:3", folder)
            assert isinstance(refused, Failed) and refused.code == "bad_request"
        denied = await register(stranger, "telegram:4", "mine")
        assert isinstance(denied, Failed) and denied.code == "denied"
        assert sorted(path.name for path in made.home.groups.iterdir()) == ["family", "global", "main"]
        main = await register(owner, "console:main", "main", trigger="@Boss")
        assert isinstance(main, GroupAnswer) and main.group.is_main and main.group.trigger == "@Boss"


async def test_a_persons_message_goes_to_a_known_chat_once() -> None:
    async with installation("broker", "router") as made:
        owner, connector = await made.connect("cli"), await made.connect("telegram")
        wanted = Deliver(command_id="d1", chat="telegram:9", text="hello")
        unknown = await ask(owner, "router", wanted, Done | Failed)
        assert isinstance(unknown, Failed) and unknown.code == "not_found"
        await connector.publish(message("telegram:9", 1, is_group=True))

        async def known() -> Done | Failed:
            while isinstance(answer := await ask(owner, "router", wanted, Done | Failed), Failed):
                assert answer.code == "not_found"
            return answer

        async with asyncio.timeout(DEADLINE_S):
            assert await known() == await known() == Done()
        made.kill("router")
        made.start("router")
        assert await ask(owner, "router", wanted, Done | Failed) == Done()
        await ask(owner, "router", Deliver(command_id="d2", chat="telegram:9", text="end"), Done)
        replies: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in connector.subscribe(Subscription("telegram", ("reply.requested",), "telegram:")):
                reply = delivery.envelope.read(ReplyRequested)
                assert reply.origin == "message"
                replies.append(reply.text)
                await connector.ack(delivery)
                if reply.text == "end":
                    break
        assert replies == ["hello", "end"]


async def test_who_is_let_in_is_handed_over_once_though_the_router_is_killed_again_and_again() -> None:
    chance = random.Random(3)
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("telegram", "queue", "cli")]
        senders = 3
        for n in range(5):
            for number in range(senders):
                draft = message(f"telegram:{number}", n, f"text {n}", is_group=False)
                received = msgspec.structs.replace(draft.payload, sender=str(number), sender_name=f"S{number}")
                await connector.publish(Draft(draft.session_id, received, message_id=draft.message_id, ts_ms=SENT_MS))

        async def all_wait() -> bool:
            rows = (await ask(owner, "router", PairingsAsked(), Pairings)).rows
            return [row.held for row in rows] == [5] * senders

        await until(all_wait)
        codes = {row.code for row in (await ask(owner, "router", PairingsAsked(), Pairings)).rows}

        async def let_in() -> None:
            for code in codes:
                wanted = AnswerPairing(command_id=f"in {code}", channel="telegram", code=code, answer="approve")
                for _ in range(3):
                    paired = await ask(owner, "router", wanted, Paired | Failed)
                    assert isinstance(paired, Paired) and paired.handed_over == 5
                    await asyncio.sleep(chance.random() * 0.3)

        async with killed_again_and_again(made, "router", owner, chance) as kills:
            runs, _ = await asyncio.gather(requests(queue, 5 * senders), let_in())
        assert kills
        expected = [[f"text {n}" for n in range(5)]] * senders
        assert [[line.text for line in run.messages] for run in runs] == expected
        assert {run.group for run in runs} == {f"telegram-s{number}" for number in range(senders)}


async def test_ac60_a_run_says_of_each_message_whose_it_is_and_whether_its_words_are_trusted() -> None:
    async with installation("broker", "router") as made:
        console, telegram, queue, owner = [
            await made.connect(name) for name in ("console", "telegram", "queue", "cli")
        ]
        await register(owner, "telegram:-1", "club", requires_trigger=False)
        here, there = "console:main", "telegram:-1"
        for draft, connector in (
            (message(here, 1), console),
            (message(here, 2, quote={"id": "1"}), console),
            (message(here, 3, quote={"id": "elsewhere"}), console),
            (message(here, 4, is_forwarded=True), console),
            (message(there, 5, is_group=True), telegram),
        ):
            await connector.publish(draft)
        found = {each.id: each for run in await requests(queue, 5) for each in run.messages}
        assert {number: each.is_trusted for number, each in found.items()} == {
            "1": True, "2": True, "3": False, "4": False, "5": False,
        }
        assert found["1"].sender == "console:ann" and found["5"].sender == "telegram:ann"
