"""The scheduler as a process, with the real broker and router."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from datetime import UTC, datetime

from tests.contract.processes import DEADLINE_S, Installation, ask, installation, until

from microclaw.bus.api import Bus, Delivery, Draft, Subscription
from microclaw.core.ids import derived_id
from microclaw.core.kinds import ReplyRequested, RunFinished, RunGranted, RunRequested
from microclaw.core.requests import (
    ChangeTask,
    CreateTask,
    Failed,
    Groups,
    GroupsAsked,
    Runs,
    RunsAsked,
    TaskAnswer,
    TaskRuns,
    TaskRunsAsked,
    Tasks,
    TasksAsked,
)
from microclaw.core.tasks import task_run_id

#: What a fire may be late on a busy machine. (On a quiet one it is a few milliseconds.)
LATE_MS_MAX = 1_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def finish(request: RunRequested, ok: bool = True, **how: str) -> Draft:
    assert request.task is not None
    run_id = task_run_id(request.task.task_id, request.task.due_ms)
    return Draft(
        f"group:{request.group}", RunFinished(run_id=run_id, attempt=1, group=request.group, ok=ok, **how),  # type: ignore[arg-type]
        message_id=derived_id(request.task.due_ms, "finish", run_id), ts_ms=request.task.due_ms,
    )


async def create(bus: Bus, command_id: str, schedule: str, value: str, group: str = "main") -> TaskAnswer | Failed:
    command = CreateTask(
        command_id=command_id, group=group, chat=f"console:{group}", prompt="stretch", schedule=schedule, value=value,
    )
    return await ask(bus, "scheduler", command, TaskAnswer | Failed)  # type: ignore[arg-type]


async def row_result(bus: Bus) -> list[tuple[str, str]]:
    tasks = await ask(bus, "scheduler", TasksAsked(), Tasks)
    return [(row.status, row.last_result) for row in tasks.tasks]


async def test_a_reminder_comes_on_time_and_its_end_is_kept() -> None:
    async with installation("broker", "router", "scheduler") as made:
        queue, cli, sandbox = [await made.connect(name) for name in ("queue", "cli", "sandbox")]
        await ask(cli, "router", GroupsAsked(), Groups)
        await made.ready(cli, "scheduler")
        due = now_ms() + 2_000
        answer = await create(cli, "c1", "once", datetime.fromtimestamp(due / 1000, UTC).isoformat())
        assert isinstance(answer, TaskAnswer)
        assert await create(cli, "c1", "once", "2030-01-01T00:00:00Z") == answer
        fires = queue.subscribe(Subscription("queue", ("run.requested",)))
        delivery = await asyncio.wait_for(anext(fires), DEADLINE_S)
        late = now_ms() - due
        request = delivery.envelope.read(RunRequested)
        assert request.task is not None
        assert (request.task.task_id, request.group) == (answer.task.id, "main")
        assert abs(request.task.due_ms - due) <= 1
        print(f"late by {late} ms")
        assert 0 <= late < LATE_MS_MAX
        await queue.ack(delivery)
        await sandbox.publish(finish(request, result="done"))

        async def kept() -> bool:
            return await row_result(cli) == [("completed", "done")]

        await until(kept)
        assert made.stop("scheduler") == 0


async def test_a_failed_task_is_told_in_its_chat() -> None:
    async with installation("broker", "router", "scheduler") as made:
        queue, console, cli = [await made.connect(name) for name in ("queue", "console", "cli")]
        await create(cli, "c1", "once", "2020-01-01T00:00:00Z")
        delivery = await asyncio.wait_for(
            anext(queue.subscribe(Subscription("queue", ("run.requested",)))), DEADLINE_S
        )
        await queue.ack(delivery, finish(delivery.envelope.read(RunRequested), ok=False, error="boom"))
        notice = await asyncio.wait_for(
            anext(console.subscribe(Subscription("console", ("reply.requested",)))), DEADLINE_S
        )
        told = notice.envelope.read(ReplyRequested)
        assert (told.chat, told.origin) == ("console:main", "notice")
        assert "stretch" in told.text
        assert await row_result(cli) == [("completed", "Error: boom")]


async def test_pain20_a_result_that_comes_while_the_scheduler_is_dead_is_not_lost_and_no_late_word_changes_it() -> None:
    async with installation("broker", "router", "queue", "scheduler") as made:
        cli, sandbox = await made.connect("cli"), await made.connect("sandbox")
        await create(cli, "c1", "once", "2020-01-01T00:00:00Z")
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",)))
        delivery = await asyncio.wait_for(anext(grants), DEADLINE_S)
        grant = delivery.envelope.read(RunGranted)
        assert grant.task is not None
        made.kill("scheduler")
        request = RunRequested(group=grant.group, chat=grant.chat, task=grant.task)
        await sandbox.ack(delivery, finish(request, result="42 found"))
        late = RunFinished(run_id=grant.run_id, attempt=1, group=grant.group, ok=False, error="lost")
        await sandbox.publish(Draft(f"group:{grant.group}", late))
        made.start("scheduler")

        async def kept() -> bool:
            return await row_result(cli) == [("completed", "42 found")]

        await until(kept)
        # The task is over, and the queue has nothing more to run of it.
        runs = await ask(cli, "queue", RunsAsked(), Runs)
        assert (runs.running, runs.waiting) == ((), ())
        log = await ask(cli, "scheduler", TaskRunsAsked(task_id=grant.task.task_id), TaskRuns)
        assert [(run.status, run.result) for run in log.runs] == [("success", "42 found")]


async def test_a_run_that_waits_for_a_sandbox_is_told_as_it_is_and_not_run_once_its_task_is_cancelled() -> None:
    async with installation("broker", "router", "queue", "scheduler") as made:
        cli, sandbox = await made.connect("cli"), await made.connect("sandbox")
        await create(cli, "c1", "once", "2020-01-01T00:00:00Z")
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",)))

        async def not_run(delivery: Delivery) -> RunGranted:
            grant = delivery.envelope.read(RunGranted)
            assert grant.task is not None
            end = RunFinished(
                run_id=grant.run_id, attempt=1, group=grant.group, ok=False, waiting=True, error="no Docker"
            )
            await sandbox.ack(delivery, Draft(f"group:{grant.group}", end))
            return grant

        async def log(status: str) -> bool:
            answer = await ask(cli, "scheduler", TaskRunsAsked(task_id=task_id), TaskRuns)
            return [run.status for run in answer.runs] == [status]

        first = await not_run(await asyncio.wait_for(anext(grants), DEADLINE_S))
        assert first.task is not None
        task_id = first.task.task_id
        await until(lambda: log("waiting"))
        again = await asyncio.wait_for(anext(grants), DEADLINE_S)
        assert again.envelope.read(RunGranted).run_id == first.run_id
        assert await log("fired"), "it runs"
        await not_run(again)
        await until(lambda: log("waiting"))
        await ask(cli, "scheduler", ChangeTask(command_id="c2", task_id=task_id, action="cancel"), TaskAnswer)

        async def nothing_waits() -> bool:
            runs = await ask(cli, "queue", RunsAsked(), Runs)
            return (runs.running, runs.waiting, runs.failed) == ((), (), ())

        await until(nothing_waits)


async def test_pain19_a_task_whose_run_died_with_everything_runs_again_when_it_is_due_next() -> None:
    async with installation("broker", "router", "queue", "scheduler") as made:
        cli, sandbox = await made.connect("cli"), await made.connect("sandbox")
        await ask(cli, "router", GroupsAsked(), Groups)
        await create(cli, "c1", "interval", "1000")
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",), ack_wait_ms=2_000))
        first = await asyncio.wait_for(anext(grants), DEADLINE_S)
        for name in ("queue", "scheduler", "broker"):
            made.kill(name)
        await sandbox.close()
        for name in ("broker", "queue", "scheduler"):
            made.start(name)
        sandbox = await made.connect("sandbox")
        grants = sandbox.subscribe(Subscription("sandbox", ("run.granted",), ack_wait_ms=2_000))
        # The grant that nobody answered comes again, under the same name: the run goes on, and its end frees the task.
        again = await asyncio.wait_for(anext(grants), DEADLINE_S)
        grant = again.envelope.read(RunGranted)
        assert grant.task is not None
        assert grant.run_id == first.envelope.read(RunGranted).run_id
        request = RunRequested(group=grant.group, chat=grant.chat, task=grant.task)
        await sandbox.ack(again, finish(request, ok=False, error="the machine went down"))
        second = (await asyncio.wait_for(anext(grants), DEADLINE_S)).envelope.read(RunGranted)
        assert second.task is not None
        assert (second.task.task_id, second.task.due_ms > grant.task.due_ms) == (grant.task.task_id, True)


async def test_a_task_of_no_group_is_paused() -> None:
    async with installation("broker", "router", "scheduler") as made:
        cli = await made.connect("cli")
        await ask(cli, "router", GroupsAsked(), Groups)
        await create(cli, "c1", "once", "2020-01-01T00:00:00Z", group="gone")

        async def paused() -> bool:
            return await row_result(cli) == [("paused", "Error: Group not found: gone")]

        await until(paused)


async def test_a_task_is_not_paused_by_what_the_router_said_before_its_group_was_registered() -> None:
    async with installation("broker") as made:
        queue, cli, router = await made.connect("queue"), await made.connect("cli"), await made.connect("router")
        asked = asyncio.Event()

        async def nobody_yet(_asker: str, _question: bytes) -> Groups:
            asked.set()
            return Groups(groups=())

        await router.serve(nobody_yet)
        made.start("scheduler")
        await asyncio.wait_for(asked.wait(), DEADLINE_S)
        assert await row_result(cli) == []
        await router.close()
        await create(cli, "c1", "once", "2020-01-01T00:00:00Z", group="late")
        delivery = await asyncio.wait_for(
            anext(queue.subscribe(Subscription("queue", ("run.requested",)))), DEADLINE_S
        )
        assert delivery.envelope.read(RunRequested).group == "late"


async def test_a_waiting_task_is_noticed_when_it_is_changed() -> None:
    async with installation("broker", "router", "scheduler") as made:
        queue, cli = await made.connect("queue"), await made.connect("cli")
        answer = await create(cli, "c1", "cron", "0 0 1 1 *")
        assert isinstance(answer, TaskAnswer)
        change = ChangeTask(command_id="c2", task_id=answer.task.id, action="update", schedule="interval", value="200")
        assert isinstance(await ask(cli, "scheduler", change, TaskAnswer), TaskAnswer)
        delivery = await asyncio.wait_for(
            anext(queue.subscribe(Subscription("queue", ("run.requested",)))), DEADLINE_S
        )
        assert delivery.envelope.read(RunRequested).task is not None


async def test_pain18_killed_again_and_again_every_fire_is_one_request_and_none_is_forgotten() -> None:
    chance = random.Random(3)
    tasks, fires_each = 4, 5
    async with installation("broker", "router", "scheduler") as made:
        queue, cli, sandbox = [await made.connect(name) for name in ("queue", "cli", "sandbox")]
        await ask(cli, "router", GroupsAsked(), Groups)
        for number in range(tasks):
            assert isinstance(await create(cli, f"c{number}", "interval", "500"), TaskAnswer)
        killing = asyncio.create_task(murder(made, cli, chance))
        requests: dict[bytes, RunRequested] = {}
        per_task: Counter[str] = Counter()
        async with asyncio.timeout(DEADLINE_S):
            async for delivery in queue.subscribe(Subscription("queue", ("run.requested",))):
                request = delivery.envelope.read(RunRequested)
                assert request.task is not None
                if delivery.envelope.message_id not in requests:
                    per_task[request.task.task_id] += 1
                requests[delivery.envelope.message_id] = request
                await sandbox.publish(finish(request))
                await queue.ack(delivery)
                if len(per_task) == tasks and min(per_task.values()) >= fires_each:
                    break
        killing.cancel()
        fired = [(request.task.task_id, request.task.due_ms) for request in requests.values() if request.task]
        assert len(fired) == len(set(fired)), "the same due time under two message ids"
        for task_id, count in per_task.items():
            dues = sorted(due for owner, due in fired if owner == task_id)
            assert len(dues) == count
            assert all((due - dues[0]) % 500 == 0 for due in dues), "off the grid"


async def murder(made: Installation, cli: Bus, chance: random.Random) -> None:
    """kill -9 now and then. On a busy machine a start takes its time: a victim gets as far as being ready."""
    while True:
        await asyncio.sleep(0.1 + chance.random() * 0.5)
        victim = chance.choice(["scheduler", "scheduler", "broker", "router"])
        made.kill(victim)
        made.start(victim)
        await made.ready(cli, victim)
