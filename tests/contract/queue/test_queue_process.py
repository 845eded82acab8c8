"""The queue as a process on the real broker."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

from tests.contract.processes import DEADLINE_S, Installation, ask, installation, until

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.core.ids import derived_id
from microclaw.core.kinds import PromptMessage, ReplyRequested, RunFinished, RunGranted, RunRequested
from microclaw.core.requests import Runs, RunsAsked, ServiceStatus, StatusAsked

START_MS = 1_700_000_000_000


def request(group: str, number: int) -> Draft:
    text = f"{group}-{number}"
    message = PromptMessage(id=text, sender_name="Ann", sent_ms=START_MS, text=text)
    return Draft(
        f"group:{group}", RunRequested(group=group, chat=f"console:{group}", messages=(message,)),
        message_id=derived_id(START_MS + number, "test", group, number), ts_ms=START_MS,
    )


def finish(grant: RunGranted, ok: bool, **how: bool) -> Draft:
    return Draft(
        f"group:{grant.group}",
        RunFinished(run_id=grant.run_id, attempt=grant.attempt, group=grant.group, ok=ok, **how),  # type: ignore[arg-type]
        message_id=derived_id(START_MS, "finish", grant.run_id), ts_ms=START_MS,
    )


async def test_a_request_is_granted_retried_told_and_shown() -> None:
    async with installation("broker", "queue") as made:
        router, sandbox, console, cli = [
            await made.connect(name) for name in ("router", "sandbox", "console", "cli")
        ]
        await router.publish(request("fam", 1))
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",)))
        first = await asyncio.wait_for(anext(grants), DEADLINE_S)
        grant = first.envelope.read(RunGranted)
        assert [message.text for message in grant.messages] == ["fam-1"]
        shown = await ask(cli, "queue", RunsAsked(), Runs)
        assert [(row.group, row.run_id) for row in shown.running] == [("fam", grant.run_id)]
        await sandbox.ack(first, finish(grant, ok=False, retryable=False))
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in console.subscribe(Subscription("console", ("reply.requested",))):
                notice = delivery.envelope.read(ReplyRequested)
                assert (notice.chat, notice.origin) == ("console:fam", "notice")
                await console.ack(delivery)
                break
        shown = await ask(cli, "queue", RunsAsked(), Runs)
        assert [row.group for row in shown.failed] == ["fam"]
        assert [row.state for row in shown.waiting] == ["kept"]
        status = await ask(cli, "queue", StatusAsked(), ServiceStatus)
        assert status.troubles
        await router.publish(request("fam", 2))
        second = (await asyncio.wait_for(anext(grants), DEADLINE_S)).envelope.read(RunGranted)
        assert [message.text for message in second.messages] == ["fam-1", "fam-2"]
        assert made.stop("queue") == 0


async def test_a_stopping_queue_starts_nothing_and_the_next_one_does() -> None:
    async with installation("broker", "queue") as made:
        router, sandbox = await made.connect("router"), await made.connect("sandbox")
        await router.publish(request("fam", 1))
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",)))
        first = await asyncio.wait_for(anext(grants), DEADLINE_S)
        await router.publish(request("fam", 2))
        assert made.stop("queue") == 0
        await sandbox.ack(first, finish(first.envelope.read(RunGranted), ok=True))
        made.start("queue")
        second = (await asyncio.wait_for(anext(grants), DEADLINE_S)).envelope.read(RunGranted)
        assert [message.text for message in second.messages] == ["fam-2"]


async def test_killed_again_and_again_each_message_is_in_exactly_one_good_run() -> None:
    """Random failures (retries take real seconds, so each group fails at most once), kills of queue and broker."""
    chance = random.Random(5)
    groups, each = 6, 20
    async with installation("broker", "queue") as made:
        router, sandbox, cli = [await made.connect(name) for name in ("router", "sandbox", "cli")]
        done: dict[str, list[str]] = defaultdict(list)
        #: run_id → ok. A grant not acknowledged yet may be given again, under the same name: then it is the same run.
        known: dict[str, bool] = {}

        async def write() -> None:
            for number in range(each):
                for group in range(groups):
                    await router.publish(request(f"g{group}", number))
                    await asyncio.sleep(chance.random() * 0.01)

        async def work() -> None:
            async for delivery in sandbox.subscribe(Subscription("sandbox", ("run.granted",))):
                grant = delivery.envelope.read(RunGranted)
                await asyncio.sleep(chance.random() * 0.02)
                if grant.run_id not in known:
                    fails = grant.group in ("g0", "g1") and grant.attempt == 1 and not done[grant.group]
                    known[grant.run_id] = not fails
                    if not fails:
                        done[grant.group] += [message.text for message in grant.messages]
                await sandbox.ack(delivery, finish(grant, ok=known[grant.run_id]))
                if sum(len(texts) for texts in done.values()) >= groups * each:
                    return

        killing = asyncio.create_task(murder(made, cli, chance))
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(write(), work())
        killing.cancel()
        assert dict(done) == {
            f"g{group}": [f"g{group}-{number}" for number in range(each)] for group in range(groups)
        }
        assert list(known.values()).count(False) == 2
        await until(lambda: idle(cli))


async def murder(made: Installation, cli: Bus, chance: random.Random) -> None:
    """kill -9 now and then. On a busy machine a start takes its time: a victim gets as far as being ready."""
    while True:
        await asyncio.sleep(0.1 + chance.random() * 0.5)
        victim = chance.choice(["queue", "queue", "broker"])
        made.kill(victim)
        made.start(victim)
        await made.ready(cli, victim)


async def idle(bus: Bus) -> bool:
    runs = await ask(bus, "queue", RunsAsked(), Runs)
    return not runs.running and not runs.waiting
