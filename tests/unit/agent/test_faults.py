"""What goes wrong at a model's server, and what the turn's end says of it: both dialects, the SDKs' own errors."""

from __future__ import annotations

import time

import pytest
from tests.fakes.llm_server import Asked, Reply, in_order
from tests.unit.agent.test_dialects import DIALECTS, NOW_MS, run

from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Turn

#: Each fault, given for ever; the code that it must become; how often the server is asked.
FOR_GOOD: dict[str, tuple[Reply, str, int]] = {
    "401": (Reply(status=401, text="invalid x-api-key"), "bad_key", 1),
    "403": (Reply(status=403, text="not allowed"), "bad_key", 1),
    "402": (Reply(status=402, text="the day's budget is used up"), "budget", 1),
    "404": (Reply(status=404, text="no such model"), "bad_request", 1),
    "400": (Reply(status=400, text="tools.0: bad schema"), "bad_request", 1),
    "400 too long": (Reply(status=400, text="prompt is too long: 9 tokens > 8 maximum"), "too_long", 1),
    "400 context": (
        Reply(status=400, text="This model's maximum context length is 8", error_kind="context_length_exceeded"),
        "too_long", 1,
    ),
    "413": (Reply(status=413, text="request too large"), "too_long", 1),
    "429": (Reply(status=429, text="slow down"), "rate_limited", 3),
    "429 much later": (Reply(status=429, retry_after="3600"), "rate_limited", 1),
    "500": (Reply(status=500, text="oops"), "model_down", 3),
    "503": (Reply(status=503, garbage="<html>bad gateway</html>"), "model_down", 3),
    "529": (Reply(status=529, text="Overloaded"), "model_down", 3),
    "cut at once": (Reply(text="a long answer that is cut off", cut_after=0), "model_down", 3),
    "cut in mid-stream": (Reply(text="a long answer that is cut off", cut_after=3), "model_down", 3),
    "overloaded in mid-stream": (Reply(text="a long answer that is cut off", error_after=3), "model_down", 3),
    "garbage": (Reply(garbage="<html>hello</html>"), "model_down", 3),
    "garbage events": (Reply(garbage="event: message_start\ndata: {\"type\": \"mess\n\n"), "model_down", 3),
    "events of another kind": (Reply(garbage="event: message_start\ndata: {\"type\": \"message_start\"}\n\n"),
                               "model_down", 3),
    "JSON that is no object": (Reply(garbage="data: 17\n\n"), "model_down", 3),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", FOR_GOOD)
async def test_a_fault_that_stays_ends_the_turn_with_its_code(workspace: Workspace, dialect: str, fault: str) -> None:
    reply, code, times = FOR_GOOD[fault]

    def script(asked: Asked) -> Reply:
        return reply

    end, asked, _ = await run(workspace, dialect, script)
    assert (end.ok, end.error_code, end.text) == (False, code, "")
    assert len(asked) == times
    assert end.error and "\n" not in end.error
    assert ";" in end.error, "the error does not say what to do next"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["429", "500", "529", "cut in mid-stream", "overloaded in mid-stream", "garbage"])
async def test_a_fault_that_passes_is_not_seen(workspace: Workspace, dialect: str, fault: str) -> None:
    reply = FOR_GOOD[fault][0]
    end, asked, _ = await run(workspace, dialect, in_order([reply, Reply(text="fine")]))
    assert (end.ok, end.text, len(asked)) == (True, "fine", 2)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_wait_that_the_server_asks_for_is_kept(workspace: Workspace, dialect: str) -> None:
    began = time.monotonic()
    end, _, _ = await run(workspace, dialect, in_order([Reply(status=429, retry_after="1"), Reply(text="fine")]))
    assert end.ok
    assert time.monotonic() - began >= 1


async def test_no_wait_goes_beyond_the_deadline(workspace: Workspace) -> None:
    turn = Turn(run_id="r1", prompt="x", now_ms=NOW_MS, deadline_s=5)
    began = time.monotonic()
    end, asked, _ = await run(workspace, "anthropic", in_order([Reply(status=429, retry_after="30")]), turn)
    assert (end.error_code, len(asked)) == ("rate_limited", 1)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_without_a_door_the_model_is_down(workspace: Workspace, dialect: str) -> None:
    from tests.unit.agent.test_dialects import worker_for

    worker, sent = worker_for(workspace, dialect)
    await worker.turn(Turn(run_id="r1", prompt="x", now_ms=NOW_MS))
    await worker.close()
    assert sent.ends[0].error_code == "model_down"
    assert "can't be reached" in sent.ends[0].error


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_turn_that_failed_in_passing_goes_on_when_it_comes_again(workspace: Workspace, dialect: str) -> None:
    step = Reply(calls=[("bash", {"command": "echo once >> log.txt"})])
    down = Reply(status=500)
    end, _, _ = await run(workspace, dialect, in_order([step, down, down, down]))
    assert end.error_code == "model_down"
    end, asked, _ = await run(workspace, dialect, in_order([Reply(text="done")]))
    assert (end.ok, end.text, len(asked)) == (True, "done", 1)
    assert (workspace.group / "log.txt").read_text() == "once\n"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_conversation_that_became_too_long_is_asked_again_without_its_past(
    workspace: Workspace, dialect: str
) -> None:
    await run(workspace, dialect, in_order([Reply(text="a long story")]))

    def script(asked: Asked) -> Reply:
        if "a long story" in str(asked.body["messages"]):
            return Reply(status=400, text="prompt is too long")
        return Reply(text="short again")

    end, asked, _ = await run(workspace, dialect, script, Turn(run_id="r2", prompt="and now?", now_ms=NOW_MS))
    assert (end.ok, end.text, len(asked)) == (True, "short again", 3), "asked, asked for a summary, asked again"
