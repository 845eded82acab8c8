"""Kill -9 at any moment: every run ends once, says everything once, and does nothing twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
from tests.contract.processes import until
from tests.contract.turns.desk import Desk, children_of

pytestmark = pytest.mark.usefixtures("bubblewrap")

ROUNDS = int(os.environ.get("MC_KILL_ROUNDS", "12"))
GROUPS = ("ann", "bob")


@pytest.mark.parametrize("victim", ["worker", "sandbox", "egress", "broker"])
async def test_killed_at_random_moments_every_run_ends_once(victim: str) -> None:
    chance = random.Random(f"kills of {victim}")
    async with Desk.opened() as desk:
        runs: dict[str, list[str]] = {}

        async def talk(group: str) -> None:
            for number in range(ROUNDS):
                text = (
                    f"#!quiet bash {{\"command\": \"echo {number} >> log.txt\"}}\n"
                    f'#!quiet send_message {{"text": "m{number}"}}\n'
                    f"#!sleep 0.05\n#!say a{number}"
                )
                run = await desk.grant(text, group=group)
                runs.setdefault(group, []).append(run)
                end = await desk.end(run)
                # A worker may be killed more often than a turn is resumed: then it is not tried again, for it was seen.
                assert end.ok or end.visible or victim == "worker", end

        async def kill() -> None:
            while True:
                for _ in range(2):
                    await asyncio.sleep(chance.uniform(0.02, 0.8))
                    if victim == "worker":
                        for pid in children_of(desk.made.pid("sandbox")):
                            kill_pid(pid)
                    else:
                        desk.made.kill(victim)
                        desk.made.start(victim)
                # However slow the machine is: it gets somewhere between two deaths.
                ended = len(desk.ends)
                await until(lambda: len(desk.ends) > ended)  # noqa: B023

        killing = asyncio.create_task(kill())
        try:
            await asyncio.gather(*(talk(group) for group in GROUPS))
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
        for group in GROUPS:
            for number, run in enumerate(runs[group]):
                end = desk.ends[run][0]
                expected = [f"m{number}", f"a{number}"] if end.ok else desk.of(run)
                assert await desk.said(run, len(expected)) == expected
            written = (desk.made.home.groups / group / "log.txt").read_text().split()
            assert len(written) == len(set(written)), "nothing is done twice"
        assert len(desk.reply_ids) == len(set(desk.reply_ids))
        assert all(len(ends) == 1 for ends in desk.ends.values())


def kill_pid(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
