"""What a run that failed had done is not done again by the next try, which has another name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contract.house import House, house

from microclaw.core.dispatch import RETRY_MS
from microclaw.core.kinds import MessageReceived, PromptMessage, RunGranted
from microclaw.core.tasks import task_run_id
from microclaw.core.turns import cause_of

TASK = {"prompt": "stretch", "schedule_type": "once", "schedule_value": "2030-01-01T09:00:00Z"}
CALL = ("call", ("schedule_task", TASK))
DOWN = ("done", {"ok": False, "error": "gone", "error_code": "model_down"})
DONE = ("done", {"text": "ok"})


async def says(made: House, number: int, text: str = "remind me", chat: str = "test:fam") -> None:
    await made.hears(MessageReceived(
        chat=chat, platform_id=f"m{number}", sender="ann", sender_name="Ann", text=text, sent_ms=1_700_000_000_000,
    ))


async def tries(made: House, count: int) -> None:
    for number in range(count):
        await made.run_next()
        made.pass_time(RETRY_MS[number])


async def test_without_a_sandbox_a_message_waits_and_is_answered_when_there_is_one() -> None:
    async with house([[("done", {"text": "here I am"})]], backend_error="no engine here: install one") as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        await says(made, 1, "one")
        for number in range(4):
            await made.run_next()
            assert made.ends[-1].waiting and not made.ends[-1].ok
            made.pass_time(RETRY_MS[number])
        assert len(made.notices()) == 1 and made.replies() == []
        made.backend_error = ""
        await made.run_all()
        assert [reply.text for reply in made.replies()] == ["here I am"]
        assert len(made.notices()) == 1
        assert made.ends[-1].ok and made.queue.desk.waiting(10) == ()


async def test_without_a_sandbox_a_task_waits_and_runs_once_when_there_is_one() -> None:
    async with house([[("done", {"text": "stretch!"})]], backend_error="no engine here: install one") as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        row = made.clock.create("interval", "60000", chat="test:fam")
        made.clock.now = row.next_run_ms or 0
        made.fire()
        for number in range(4):
            end = await made.run_next()
            assert end.waiting and not end.ok and made.grants == []
            made.pass_time(RETRY_MS[number])
        assert len(made.notices()) == 1 and made.replies() == []
        made.backend_error = ""
        await made.run_all()
        assert [reply.text for reply in made.replies()] == ["stretch!"]
        assert {end.run_id for end in made.ends} == {task_run_id(row.id, row.next_run_ms or 0)}
        assert made.ends[-1].ok and made.queue.desk.waiting(10) == ()


async def test_a_task_that_said_something_before_its_engine_went_does_not_begin_anew() -> None:
    async with house([[("send", "hello"), ("exit", 1)]] * 9) as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        row = made.clock.create("interval", "60000", chat="test:fam")
        made.clock.now = row.next_run_ms or 0
        made.fire()
        running = await made.begin_next()
        made.backend_error = "no engine here: install one"
        end = await running
        assert (end.ok, end.visible, end.waiting) == (False, True, False)
        assert made.queue.desk.waiting(10) == () and made.grants == []


@pytest.mark.parametrize("end", [DOWN, ("exit", 1)])
async def test_a_task_made_by_a_run_that_failed_is_not_made_again_by_its_retry(end: tuple[str, Any]) -> None:
    async with house([[CALL, end]] * 4 + [[CALL, DONE]]) as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        await says(made, 1)
        await made.run_next()
        # A newer message comes along in the next try.
        await says(made, 2, "and do hurry")
        made.pass_time(RETRY_MS[0])
        while made.grants and not made.ends[-1].ok:
            await made.run_next()
            made.pass_time(max(RETRY_MS))
        assert made.ends[-1].ok
        assert len({end.run_id for end in made.ends}) > 1
        assert len(made.clock.rows()) == 1
        assert len(set(made.answers("fam"))) == 1


async def test_another_task_of_the_next_try_and_the_same_of_another_message_are_made() -> None:
    other = ("call", ("schedule_task", TASK | {"prompt": "breathe"}))
    async with house([[CALL, DOWN], [other, DONE], [CALL, DONE]]) as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        await says(made, 1)
        await tries(made, 2)
        assert sorted(row.prompt for row in made.clock.rows()) == ["breathe", "stretch"]
        await says(made, 2)
        await made.run_next()
        assert sorted(row.prompt for row in made.clock.rows()) == ["breathe", "stretch", "stretch"]


def test_an_edited_message_is_another_request_and_a_newer_one_beside_it_is_not() -> None:
    first = PromptMessage(id="m1", sender_name="Ann", sent_ms=1, text="remind me")
    edited = msgspec.structs.replace(first, text="remind me at 9")
    newer = msgspec.structs.replace(first, id="m2")
    grants = [
        RunGranted(run_id=f"r{number}", attempt=1, group="fam", chat="test:fam", messages=messages)
        for number, messages in enumerate([(first,), (first, newer), (edited,)])
    ]
    causes = [cause_of(grant) for grant in grants]
    assert causes[0] == causes[1]
    assert causes[0] != causes[2]


async def test_a_task_cancelled_meanwhile_is_not_said_to_be_scheduled() -> None:
    async with house([[CALL, DOWN], [CALL, DONE]]) as made:
        await made.register("test:fam", "fam", requires_trigger=False)
        await says(made, 1)
        await made.run_next()
        (row,) = made.clock.rows()
        made.clock.change(row.id, "cancel")
        made.pass_time(RETRY_MS[0])
        await made.run_next()
        assert made.clock.rows() == []
        assert made.answers("fam")[-1].startswith("error: task ")
