"""A task's script decides whether the model is asked: what it costs, and what becomes of one that fails."""

from __future__ import annotations

import pytest
from tests.fakes.llm_server import Asked, Reply, in_order
from tests.unit.agent.test_dialects import DIALECTS, NOW_MS, run

from microclaw.agent.check import run_check
from microclaw.agent.workspace import Workspace
from microclaw.core.check import CheckError
from microclaw.core.worker import Turn


def turn(script: str, run_id: str = "r1", **more: str) -> Turn:
    return Turn(run_id=run_id, prompt="look at the door", now_ms=NOW_MS, is_task=True, script=script, **more)  # type: ignore[arg-type]


def never(asked: Asked) -> Reply:
    raise AssertionError("the model was asked")


async def test_pain22_no_model_is_asked_when_the_check_finds_nothing_to_do(workspace: Workspace) -> None:
    end, asked, _ = await run(workspace, "anthropic", never, turn("echo '{\"wakeAgent\": false}'"))
    assert (end.ok, end.skipped, end.text, end.steps) == (True, True, "", 0)
    assert asked == []
    # Asked again after a crash it says the same, without looking.
    again, asked, _ = await run(workspace, "anthropic", never, turn("exit 1"))
    assert (again.ok, again.skipped, asked) == (True, True, [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_check_that_wakes_the_model_tells_it_what_it_found(workspace: Workspace, dialect: str) -> None:
    (workspace.group / "door").write_text("open")
    script = 'echo "{\\"wakeAgent\\": true, \\"data\\": {\\"door\\": \\"$(cat door)\\"}}"'
    end, asked, _ = await run(workspace, dialect, in_order([Reply(text="It is open.")]), turn(script))
    assert (end.ok, end.skipped, end.text) == (True, False, "It is open.")
    assert "look at the door" in asked[0].prompt
    assert '{"door":"open"}' in asked[0].prompt


@pytest.mark.parametrize(("script", "why"), [
    ("echo no disk >&2; exit 3", "exit code 3: no disk"), ("true", "wakeAgent"), ("kill -9 $$", "signal 9"),
    ("echo '{\"wakeAgent\": \"maybe\"}'", "wakeAgent"), ("no-such-program", "exit code 127"),
])
async def test_a_check_that_fails_is_a_failed_turn(workspace: Workspace, script: str, why: str) -> None:
    end, asked, _ = await run(workspace, "anthropic", never, turn(script))
    assert (end.ok, end.skipped, end.error_code) == (False, False, "check_failed")
    assert why in end.error
    assert asked == []


async def test_ac54_a_check_that_would_destroy_something_does_not_run(workspace: Workspace) -> None:
    (workspace.group / "notes").mkdir()
    end, asked, _ = await run(workspace, "anthropic", never, turn("rm -rf notes; echo '{\"wakeAgent\": false}'"))
    assert (end.ok, end.error_code, asked) == (False, "check_failed", [])
    assert "not run: it deletes notes" in end.error and (workspace.group / "notes").is_dir()


async def test_a_check_that_takes_too_long_is_ended_with_all_it_started(workspace: Workspace) -> None:
    with pytest.raises(CheckError, match=r"longer than 0\.2 s"):
        await run_check("sleep 30 & sleep 30", workspace, timeout_s=0.2)


async def test_a_skipped_turn_leaves_nothing_in_the_conversation(workspace: Workspace) -> None:
    await run(workspace, "anthropic", never, turn("echo '{\"wakeAgent\": false}'"))
    _, asked, _ = await run(
        workspace, "anthropic", in_order([Reply(text="hi")]), Turn(run_id="r2", prompt="hello", now_ms=NOW_MS)
    )
    assert "door" not in str(asked[0].body["messages"])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_turn_may_name_another_model(workspace: Workspace, dialect: str) -> None:
    _, asked, _ = await run(workspace, dialect, in_order([Reply(text="hi")]), turn("", model="small-one"))
    assert asked[0].body["model"] == "small-one"
