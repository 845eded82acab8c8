"""`/model` from end to end: real router, egress and sandbox; a model over HTTP whose agent lives in bubblewrap."""

from __future__ import annotations

import pytest
from tests.contract.processes import ask, until
from tests.contract.turns.desk import Desk
from tests.fakes.llm_server import Asked, FakeLLM, Reply

from microclaw.core.kinds import ScheduledTask
from microclaw.core.requests import SecretAnswer, SetSecret, UsageAsked, UsageRows

pytestmark = pytest.mark.usefixtures("bubblewrap")


def model(_asked: Asked) -> Reply:
    return Reply(text="fine")


async def test_the_owner_has_another_model_think_from_the_next_turn_on_through_restarts_and_back() -> None:
    async with FakeLLM(model, key="k" * 20).serve() as llm:
        more = f'key = "llm"\nname = "m-1"\nallowed = ["m-2"]\nbase_url = "{llm.url}"\n'
        async with Desk.opened("router", model="anthropic", more=more) as desk:
            cli = await desk.made.connect("cli")
            await ask(cli, "egress", SetSecret(name="llm", value="k" * 20), SecretAnswer)

            async def thinks_with(group: str = "main", task: ScheduledTask | None = None) -> str:
                run = await desk.grant("hello", group=group, is_main=group == "main", task=task)
                assert (await desk.end(run)).ok
                return str(llm.requests[-1].body["model"])

            assert await thinks_with() == "m-1"
            await desk.hear("/model m-9")
            await desk.noticed("m-9 is not one of the models")
            # Not the owner in the main chat: no word to the house.
            await desk.hear("/model m-2", is_forwarded=True)
            await desk.hear("/model m-2", is_group=True, sender="guest")
            await desk.hear("/model")
            await desk.noticed("main thinks with m-1")
            assert await thinks_with() == "m-1"
            await desk.hear("/model m-2")
            await desk.noticed("main thinks with m-2")
            assert await thinks_with() == "m-2" and await thinks_with("fam") == "m-1"
            assert await thinks_with(task=ScheduledTask(task_id="t", prompt="x", due_ms=1)) == "m-2"
            for name in ("router", "sandbox"):
                desk.made.kill(name)
                desk.made.start(name)
                await desk.made.ready(cli, name)
            assert await thinks_with() == "m-2"

            async def counted() -> bool:
                rows = (await ask(cli, "egress", UsageAsked(), UsageRows)).rows
                return {(row.group, row.model): row.calls for row in rows} == {
                    ("main", "m-1"): 2, ("main", "m-2"): 3, ("fam", "m-1"): 1,
                }

            await until(counted)
            await desk.hear("/model default")
            await desk.noticed("From its next turn on main thinks with m-1")
            assert await thinks_with() == "m-1"
