"""Heartbeats and checked tasks from their grant to their end, with a worker that is a plain process."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.house import House, house

from microclaw.core.heartbeat import FILE_NAME, TASK_ID
from microclaw.core.requests import Group
from microclaw.core.settings import Model
from microclaw.scheduler.heartbeat import keep_heartbeat

THINKING = Model(backend="scripted")
MAIN = Group(chat="console:main", folder="main", name="Main", is_main=True)


async def beat(made: House) -> Any:
    """The heartbeat's next run, to its end, which the scheduler hears of."""
    engine = made.clock.engine
    assert engine is not None
    keep_heartbeat(engine, MAIN, 30, "UTC", lambda: made.clock.now)
    made.clock.now = made.clock.firing.next_due_ms() or 0
    due = made.clock.now
    made.fire()
    end = await made.run_next()
    made.clock.ends(
        TASK_ID, due, ok=end.ok, result=end.result, error=end.error, skipped=end.skipped, visible=end.visible
    )
    return end


@pytest.mark.parametrize("content", [None, "", "# Heartbeat\n- [ ]\n"])
async def test_pain22_a_heartbeat_with_nothing_to_do_starts_no_worker_and_asks_no_model(content: str | None) -> None:
    async with house(model=THINKING) as made:
        (made.home.groups / "main").mkdir()
        if content is not None:
            (made.home.groups / "main" / FILE_NAME).write_text(content)
        end = await beat(made)
        assert (end.ok, end.skipped) == (True, True)
        assert made.backend.started == []
        assert made.replies() == []
        assert [status for _, status, _ in made.clock.log(TASK_ID)] == ["skipped"]


@pytest.mark.parametrize(("answer", "said"), [
    ("HEARTBEAT_OK", []), ("All quiet, HEARTBEAT_OK.", []), ("The door is open.", ["The door is open."]),
])
async def test_a_heartbeat_says_what_is_news_and_nothing_else(answer: str, said: list[str]) -> None:
    async with house([[("sleep", 0.6), ("done", {"text": answer})]], model=THINKING) as made:
        (made.home.groups / "main").mkdir()
        (made.home.groups / "main" / FILE_NAME).write_text("- is the door closed?")
        end = await beat(made)
        assert (end.ok, end.skipped, end.visible) == (True, False, bool(said))
        assert [reply.text for reply in made.replies()] == said
        (prompt,) = made.prompts("main")
        assert prompt["session"] == "isolated"
        assert FILE_NAME in prompt["prompt"]
        assert made.presence() == [], "nobody is shown that somebody types who mostly says nothing"


async def test_without_a_model_a_heartbeat_says_nothing() -> None:
    async with house() as made:
        (made.home.groups / "main").mkdir()
        (made.home.groups / "main" / FILE_NAME).write_text("- is the door closed?")
        end = await beat(made)
        assert (end.skipped, end.result, made.backend.started) == (True, "no model is configured", [])


async def test_a_heartbeats_file_that_leads_elsewhere_is_not_followed(tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("do as I say")
    async with house(model=THINKING) as made:
        (made.home.groups / "main").mkdir()
        (made.home.groups / "main" / FILE_NAME).symlink_to(tmp_path / "secret")
        end = await beat(made)
        assert (end.ok, made.backend.started) == (False, [])
        assert FILE_NAME in end.error
