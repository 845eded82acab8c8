"""What the owner tells the house in a chat is answered without the agent; from others it is a message like any."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import msgspec
import pytest
from tests.contract.house import house
from tests.contract.processes import DEADLINE_S, installation
from tests.contract.router.router_play import envelope_of
from tests.contract.router.test_router import message, register, requests
from tests.unit.sandbox_service.plain import PlainSandbox

from microclaw.agent.conversation import Outcome
from microclaw.agent.transcript import DoneLine, TurnLine
from microclaw.bus.api import Bus, Delivery, Subscription
from microclaw.core.ids import new_id
from microclaw.core.kinds import ControlRequested, MessageReceived, ReplyRequested, RunRequested
from microclaw.core.lanes import LaneState
from microclaw.core.prompt import format_messages
from microclaw.sandbox.backend import RunSpec

SLOW: list[tuple[str, Any]] = [("sleep", 60), ("done", {"text": "late"})]
QUICK: list[tuple[str, Any]] = [("done", {"text": "ok"})]


async def heard(bus: Bus, kind: str, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        async for delivery in bus.subscribe(Subscription(f"{bus.name}-{kind}", (kind,))):
            found.append(delivery.envelope)
            await bus.ack(delivery)
            if len(found) == count:
                return found
    raise AssertionError


async def test_the_owner_is_answered_by_the_house_and_the_agent_never_sees_it() -> None:
    async with installation("broker", "router", "queue", "scheduler") as made:
        connector, queue, owner = [await made.connect(name) for name in ("console", "cli", "cli")]
        for name in ("queue", "scheduler"):
            await made.ready(owner, name)
        typed = (
            "/help", "/status", "/whoami", "/cron", "/usage", "/stop", "/stop nowhere", "/model some-model", "/memory",
            "/compact",
        )
        for number, text in enumerate(typed, 1):
            await connector.publish(message("console:main", number, text))
        replies = [each.read(ReplyRequested) for each in await heard(queue, "reply.requested", len(typed))]
        said = [reply.text for reply in replies]
        assert all(reply.chat == "console:main" and reply.origin == "notice" for reply in replies)
        assert "/stop [GROUP]:" in said[0]
        assert said[1].startswith("All is quiet")
        assert "main group" in said[2] and "console:main" in said[2]
        assert said[3] == "Nothing is planned."
        # There is no egress here: it is told, and nothing hangs.
        assert "status" in said[4]
        assert said[5] == "Nothing is running in main."
        assert "no group 'nowhere'" in said[6]
        assert "no language model" in said[7] and "microclaw config set" in said[7]
        assert "main/CLAUDE.md: 0." in said[8] and "conversations in its folder: 0" in said[8]
        assert said[9].startswith("There is nothing to compact")
        (control,) = [each.read(ControlRequested) for each in await heard(owner, "control.requested", 1)]
        assert (control.group, control.action) == ("main", "stop")
        await connector.publish(message("console:main", 99, "hello"))
        (run,) = [each.read(RunRequested) for each in await heard(owner, "run.requested", 1)]
        assert [prompt.text for prompt in run.messages] == ["hello"]


async def test_anybody_elses_command_is_plain_text() -> None:
    async with installation("broker", "router") as made:
        connector, queue, owner = [await made.connect(name) for name in ("console", "queue", "cli")]
        await register(owner, "console:fam", "fam", requires_trigger=False)
        await connector.publish(message("console:fam", 1, "/stop", is_group=True))
        [run] = await requests(queue, 1)
        assert [prompt.text for prompt in run.messages] == ["/stop"]


def word(action: str, at_ms: int) -> Delivery:
    control = ControlRequested(group="fam", action=action, chat="wa:fam")  # type: ignore[arg-type]
    return Delivery(envelope_of(control, f"control:{action}:fam", new_id(at_ms)), 1, None)


def says(number: int, text: str) -> MessageReceived:
    return MessageReceived(
        chat="wa:fam", platform_id=str(number), sender="ann", sender_name="Ann", text=text, sent_ms=number
    )


async def test_stop_ends_a_stuck_run_at_once_and_it_is_not_tried_again() -> None:
    async with house([SLOW, QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "take your time"))
        running = await made.begin_next()
        async with asyncio.timeout(DEADLINE_S):
            await made.turns.on_control(word("stop", made.queue.now + 1))
            end = await running
        assert (end.ok, end.error, end.retryable) == (False, "stopped by the owner", False)
        assert made.queue.desk.dispatch.state("fam") is LaneState.IDLE
        assert made.notices() == []
        await made.hears(says(2, "again"))
        assert (await made.run_next()).ok
        assert "take your time" not in made.prompts("fam")[-1]["prompt"]


async def test_a_stop_that_comes_late_hits_nothing_that_was_said_after_it() -> None:
    async with house([[("sleep", 0.5), ("done", {"text": "ok"})]]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "hello"))
        running = await made.begin_next()
        await made.turns.on_control(word("stop", made.queue.now - 1))
        assert (await running).ok


async def test_a_stop_that_overtakes_its_run_holds_for_it_and_for_no_other() -> None:
    """Grants and the owner's words come by two ways: which is first is chance."""
    async with house([QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "delete it all"))
        made.queue.now += 1
        await made.turns.on_control(word("stop", made.queue.now))
        end = await made.run_next()
        assert (end.ok, end.error) == (False, "stopped by the owner")
        assert made.prompts("fam") == [] and made.replies() == []
        made.queue.now += 1
        await made.hears(says(2, "or rather: what time is it?"))
        assert (await made.run_next()).ok
        assert "delete it all" not in made.prompts("fam")[-1]["prompt"]


async def test_a_stop_holds_while_the_worker_is_still_waited_for() -> None:
    async with house([QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        starting, go_on = asyncio.Event(), asyncio.Event()
        start = made.backend.start

        async def slowly(spec: RunSpec) -> PlainSandbox:
            starting.set()
            await go_on.wait()
            return await start(spec)

        made.backend.start = slowly  # type: ignore[method-assign]
        await made.hears(says(1, "delete it all"))
        running = asyncio.create_task(made.run_next())
        async with asyncio.timeout(DEADLINE_S):
            await starting.wait()
            await made.turns.on_control(word("stop", made.queue.now + 1))
            go_on.set()
            assert (await running).error == "stopped by the owner"
        assert made.prompts("fam") == []


async def test_a_stop_outlives_the_service() -> None:
    """Killed after the stop was taken and before the end of the run was told."""
    async with house([SLOW, QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "take your time"))
        running = await made.begin_next()
        made.queue.now += 1
        made.notes.stop("fam", made.queue.now)
        await made.kill(running)
        assert (await made.run_next()).error == "stopped by the owner"
        assert len(made.prompts("fam")) == 1


async def test_a_stop_means_nothing_any_more_when_the_clock_is_set_back() -> None:
    async with house([QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.turns.on_control(word("stop", made.queue.now))
        made.queue.now -= 3_600_000
        await made.hears(says(1, "hello"))
        assert (await made.run_next()).ok


async def test_new_puts_the_session_aside_after_the_run_under_way() -> None:
    async with house([[("session", "s1"), ("sleep", 0.3), ("done", {"text": "ok"})], QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "hello"))
        running = await made.begin_next()
        await made.turns.on_control(word("new", made.queue.now + 1))
        assert (await running).ok
        assert made.session("fam") is None
        aside = [path for path in made.home.sessions.iterdir() if path.name.startswith("fam.")]
        assert [(path / "session").read_text() for path in aside] == ["s1"]
        await made.hears(says(2, "hello again"))
        await made.run_next()
        assert made.prompts("fam")[-1]["resumed"] is None


async def test_new_delivered_again_leaves_what_was_said_since() -> None:
    """Killed after it was done and before its acknowledgement."""
    script = [[("session", name), ("done", {"text": "ok"})] for name in ("s1", "s2")]
    async with house(script) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "hello"))
        await made.run_next()
        control = word("new", made.queue.now + 1)
        await made.turns.on_control(control)
        assert made.session("fam") is None
        await made.hears(says(2, "hello again"))
        await made.run_next()
        await made.kill()
        made.queue.now += 60_000
        await made.turns.on_control(control)
        assert made.session("fam") == "s2"


async def test_compact_is_done_by_the_groups_worker_after_the_run_under_way_and_told_once() -> None:
    script = [[("sleep", 0.3), ("done", {"text": "ok"})], [("done", {"text": "summed up"})]]
    async with house(script) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        await made.hears(says(1, "hello"))
        running = await made.begin_next()
        control = word("compact", made.queue.now + 1)
        drafts = await made.turns.on_control(control)
        assert (await running).ok
        again = await made.turns.on_control(control)
        assert [(draft.payload.chat, draft.payload.text) for draft in drafts] == [("wa:fam", "summed up")]
        assert [draft.message_id for draft in again] == [draft.message_id for draft in drafts]
        assert made.prompts("fam")[-1]["prompt"] == ""


async def test_a_compaction_that_can_not_be_done_says_so() -> None:
    async with house([[("exit", 1)]]) as made:
        (draft,) = await made.turns.on_control(word("compact", made.queue.now))
        assert "no group fam" in draft.payload.text
        await made.register("wa:fam", "fam", requires_trigger=False)
        (draft,) = await made.turns.on_control(word("compact", made.queue.now))
        assert "nothing has changed" in draft.payload.text


@pytest.mark.parametrize("is_main", [True, False])
async def test_pain25_the_owner_alone_is_told_once_that_a_conversation_was_compacted(is_main: bool) -> None:
    compacted = {"text": "ok", "compacted": "conversations/2026-11-23-aa.md"}
    async with house([[("done", compacted)], QUICK]) as made:
        made.router.registry.ensure_main("console:main")
        if not is_main:
            await made.register("wa:fam", "fam", requires_trigger=False)
        chat = "console:main" if is_main else "wa:fam"
        for number in (1, 2):
            await made.hears(msgspec.structs.replace(says(number, "hello"), chat=chat))
            await made.run_next()
        notices = [reply for reply in made.replies() if reply.origin == "notice"]
        assert [notice.chat for notice in notices] == ["console:main"]
        assert "conversations/2026-11-23-aa.md" in notices[0].text


async def test_new_writes_what_was_said_to_a_page_and_follows_no_link() -> None:
    turn = TurnLine(run_id="r1", prompt=format_messages(()) + "hello", now_ms=1_795_440_000_000)
    done = DoneLine(run_id="r1", outcome=Outcome(ok=True, text="hi <internal>hm</internal>there"))
    async with house([QUICK]) as made:
        await made.register("wa:fam", "fam", requires_trigger=False)
        (made.home.groups / "fam").mkdir(parents=True)
        for link in (False, True):
            made.queue.now += 1
            folder = made.home.sessions / "fam"
            folder.mkdir(exist_ok=True)
            (folder / "group.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (turn, done)))
            pages = made.home.groups / "fam" / "conversations"
            if link:
                shutil.rmtree(pages)
                pages.symlink_to(made.home.secrets)
            await made.turns.on_control(word("new", made.queue.now))
            assert not folder.exists(), "put aside all the same"
            if not link:
                (page,) = pages.iterdir()
                assert "hello" in page.read_text() and "**Andy**: hi there" in page.read_text()
        assert list(made.home.secrets.iterdir()) == []
