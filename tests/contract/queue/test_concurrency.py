"""Fifty groups at once against the real queue process, broker and databases, with everything killed now and then.

The bounds are the queue's own words (`core.dispatch`): never more than `queue.max_concurrent` runs, one run of a group,
and a group in line is granted after at most one run of each group that stood before it.

The full form: `MICROCLAW_LONG=1 pytest tests/contract/queue/test_concurrency.py -s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections import Counter

import pytest
from tests.contract.processes import Installation, ask, installation, until
from tests.contract.queue.sandbox_peer import SandboxPeer, fates_of, waits
from tests.contract.queue.test_queue_process import idle, request

from microclaw.bus.api import Bus, Subscription
from microclaw.core.kinds import ReplyRequested
from microclaw.core.requests import ServiceStatus, StatusAsked
from microclaw.core.settings import Queue

PLACES = Queue().max_concurrent
LONG = bool(os.environ.get("MICROCLAW_LONG"))


class Trial:
    """So many groups that say so much, with this luck."""

    def __init__(self, groups: int, each: int, seed: int, *, deaths_in_a_row: int, longest_s: float) -> None:
        self.groups = [f"g{number}" for number in range(groups)]
        self.each = each
        self.says, self.kill = random.Random(seed), random.Random(-seed)
        self.fates = fates_of(
            seed, lambda group: f"{group}-{each - 1}", deaths_in_a_row=deaths_in_a_row, longest_s=longest_s
        )
        self.kills: Counter[str] = Counter()
        self.notices: list[str] = []

    async def write(self, bus: Bus, peer: SandboxPeer, pause_s: float) -> None:
        """Everything that is said: a tenth of the groups talk without a breath, the others now and then."""
        left = dict.fromkeys(self.groups, 0)
        talkers = self.groups[: max(1, len(self.groups) // 10)]
        while left:
            group = self.says.choice([each for each in talkers if each in left] * 4 + list(left))
            await bus.publish(request(group, left[group]))
            peer.said(group, f"{group}-{left[group]}")
            left[group] += 1
            if left[group] == self.each:
                del left[group]
            await asyncio.sleep(self.says.random() * pause_s)

    async def murder(self, made: Installation, cli: Bus, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s * (0.5 + self.kill.random()))
            victim = self.kill.choice(["queue", "queue", "broker"])
            made.kill(victim)
            made.start(victim)
            self.kills[victim] += 1
            await made.ready(cli, victim)

    async def listen(self, console: Bus) -> None:
        async for delivery in console.subscribe(Subscription("console", ("reply.requested",))):
            self.notices.append(delivery.envelope.read(ReplyRequested).run_id)
            await console.ack(delivery)


def _none_broke(tasks: list[asyncio.Task[None]]) -> bool:
    """Raises what ended one of them."""
    for task in tasks:
        if task.done():
            task.result()
    return True


async def play(trial: Trial, *, pause_s: float, kill_every_s: float, deadline_s: float) -> None:
    began_s = time.monotonic()
    async with installation("broker", "queue") as made:
        router, sandbox, console, cli = [
            await made.connect(name) for name in ("router", "sandbox", "console", "cli")
        ]
        peer = SandboxPeer(sandbox, trial.fates)
        said = [asyncio.create_task(work) for work in (
            peer.work(), trial.murder(made, cli, kill_every_s), trial.listen(console),
        )]
        async with asyncio.timeout(deadline_s):
            await trial.write(router, peer, pause_s)
            await until(lambda: _none_broke(said) and peer.settled >= len(trial.groups) * trial.each, deadline_s)
            said[1].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await said[1]
            await made.ready(cli, "queue")
            await until(lambda: idle(cli))
        hopeless = [event for event in peer.events if event.end == "hopeless"]
        await until(lambda: len(trial.notices) >= len(hopeless))
        for task in said:
            task.cancel()
        await asyncio.gather(*said, return_exceptions=True)

        # Order, and each message in exactly one prompt that counts.
        assert peer.done == {
            group: [f"{group}-{number}" for number in range(trial.each)] for group in trial.groups
        }
        # The bound, and one run a group.
        assert peer.faults == []
        assert peer.most <= PLACES
        # Nobody starves: grants that are under way when a group gets in line are besides the bound.
        longest = max(waits(peer.events).values())
        assert longest <= len(trial.groups) - 1 + 2 * PLACES
        # Who failed for good was told so once, and the queue holds nothing back.
        assert len(trial.notices) == len(set(trial.notices)) == len(hopeless)
        status = await ask(cli, "queue", StatusAsked(), ServiceStatus)
        assert not any(status.facts.get(state) for state in ("running", "waiting", "backing_off", "kept"))
        made.stop("queue")
        with sqlite3.connect(made.home.database("queue")) as db:
            assert db.execute("SELECT count(*) FROM queue_items").fetchone() == (0,)
            ((runs,),) = db.execute("SELECT count(*) FROM queue_runs WHERE state != 'running'")
        assert runs == len(peer.grants)
        ends = Counter(event.end for event in peer.events if event.what == "ended")
        print(
            f"{len(trial.groups)} groups x {trial.each}: {runs} runs ({dict(ends)}), at most {peer.most} at once, "
            f"{longest} grants passed a waiting group at most, {peer.deliveries - runs} grants given again, "
            f"killed {dict(trial.kills)}, {time.monotonic() - began_s:.0f} s"
        )


async def test_pain08_groups_run_in_order_within_the_bound_and_none_starves() -> None:
    trial = Trial(50, 6, seed=8, deaths_in_a_row=1, longest_s=0.05)
    await play(trial, pause_s=0.002, kill_every_s=2.0, deadline_s=60.0)
    assert trial.kills


@pytest.mark.skipif(not LONG, reason="minutes; set MICROCLAW_LONG")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
async def test_fifty_groups_of_forty_messages(seed: int) -> None:
    trial = Trial(50, 40, seed=seed, deaths_in_a_row=3, longest_s=0.1)
    await play(trial, pause_s=0.02, kill_every_s=3.0, deadline_s=600.0)
    assert trial.kills["queue"] > 2
    assert trial.kills["broker"] > 0
