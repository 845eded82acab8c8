"""Runs that hang, and background runs whose end must not get lost or pass for something else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.house import House, house

from microclaw.core.dispatch import RETRY_MS
from microclaw.core.kinds import MessageReceived
from microclaw.core.tasks import SILENT_RESULT
from microclaw.sandbox.worker import GARBLED_LINES_MAX

CHAT = "test:fam"
DONE = ("done", {"text": "here I am"})


async def says(made: House, text: str, number: int = 1) -> None:
    await made.hears(MessageReceived(
        chat=CHAT, platform_id=f"m{number}", sender="ann", sender_name="Ann", text=text, sent_ms=1_700_000_000_000,
    ))


async def test_pain07_a_worker_without_a_sign_of_life_is_ended_and_its_lane_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("microclaw.core.turns.SILENCE_S_MAX", 0.3)
    async with house([[("sleep", 600)], [DONE]]) as made:
        await made.register(CHAT, "fam", requires_trigger=False)
        await says(made, "are you there?")
        stuck = await made.run_next()
        assert (stuck.ok, stuck.retryable) == (False, True)
        assert "no sign of life" in stuck.error
        assert made.presence()[-1:] != ["composing"], "nobody types for ever"
        await says(made, "hello?", 2)
        # What comes meanwhile starts a run at once; the pause is for the retry alone.
        again = await made.run_next()
        assert again.ok
        assert again.run_id != stuck.run_id
        assert "are you there?" in made.prompts("fam")[-1]["prompt"]
        assert "hello?" in made.prompts("fam")[-1]["prompt"]
        made.pass_time(max(RETRY_MS))
        assert made.grants == []
        assert [reply.text for reply in made.replies()] == ["here I am"]
        assert made.waiting("fam") == 0


async def background(made: House, schedule: str = "interval", value: str = "600000") -> tuple[str, Any]:
    """A task of the group, and the end of its first run, which the scheduler hears of."""
    made.clock.folders = frozenset({"fam"})
    row = made.clock.create(schedule, value, chat=CHAT)
    due = made.clock.now = row.next_run_ms or 0
    made.fire()
    end = await made.run_next()
    made.clock.ends(row.id, due, ok=end.ok, result=end.result, error=end.error, visible=end.visible)
    return row.id, end


@pytest.mark.parametrize("act", [("exit", 0), ("exit", 1), ("raw", "nonsense\n" * 20)])
async def test_pain20_a_background_run_that_gave_no_result_is_never_logged_as_done(act: tuple[str, Any]) -> None:
    async with house([[act]]) as made:
        await made.register(CHAT, "fam", requires_trigger=False)
        task, end = await background(made)
        assert not end.ok
        ((_, status, result),) = made.clock.log(task)
        assert status == "error"
        assert result != SILENT_RESULT and result.startswith("Error: ")
        assert len(made.clock.notices) == 1


async def test_pain20_a_background_runs_answer_is_in_its_chat_and_in_the_log() -> None:
    async with house([[DONE]]) as made:
        await made.register(CHAT, "fam", requires_trigger=False)
        task, _ = await background(made)
        assert [(reply.chat, reply.text) for reply in made.replies()] == [(CHAT, "here I am")]
        assert [(status, result) for _, status, result in made.clock.log(task)] == [("success", "here I am")]


async def test_a_line_nested_without_end_is_garbled_and_nothing_stands_still() -> None:
    """msgspec gives up on it with an error of its own."""
    deep = '{"type":"tool_call","run_id":"r","call_id":"c","name":"n","args":{"a":' + "[" * 5_000 + "\n"
    async with house([[("raw", deep * GARBLED_LINES_MAX), ("sleep", 600)], [DONE]]) as made:
        await made.register(CHAT, "fam", requires_trigger=False)
        await says(made, "are you there?")
        end = await made.run_next()
        assert not end.ok and "make no sense" in end.error
        await says(made, "hello?", 2)
        assert (await made.run_next()).ok
