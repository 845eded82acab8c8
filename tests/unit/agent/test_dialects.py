"""Both dialects with the providers' own SDKs, over the socket of the only door, against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.agent_host import setup
from tests.fakes.llm_server import Asked, FakeLLM, Reply, Script, in_order

from microclaw.agent.worker import Worker
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import ToolCall, ToolReply, Turn, TurnDone, WorkerLine, Writing

DIALECTS = ("anthropic", "openai")
NOW_MS = 1_795_440_000_000  # 2026-11-23 14:20 in Berlin


class Sent(list[WorkerLine]):
    """What the worker sent; host calls are answered at once."""

    worker: Worker

    def __call__(self, line: WorkerLine) -> None:
        self.append(line)
        if isinstance(line, ToolCall):
            self.worker.replied(
                ToolReply(run_id=line.run_id, call_id=line.call_id, ok=True, text=f"{line.name} done")
            )

    @property
    def ends(self) -> list[TurnDone]:
        return [line for line in self if isinstance(line, TurnDone)]


def worker_for(workspace: Workspace, dialect: str, **more: Any) -> tuple[Worker, Sent]:
    sent = Sent()
    more.setdefault("model", "test-model")
    worker = Worker(setup(dialect, **more), workspace, sent, first_wait_s=0.01)
    sent.worker = worker
    return worker, sent


async def run(
    workspace: Workspace, dialect: str, script: Script, turn: Turn | None = None, **more: Any
) -> tuple[TurnDone, list[Asked], Sent]:
    """One turn against the script: its end, what the server was asked, what the worker sent."""
    async with FakeLLM(script).serve(unix=workspace.egress_socket) as server:
        worker, sent = worker_for(workspace, dialect, **more)
        await worker.turn(turn or Turn(run_id="r1", prompt="hello", now_ms=NOW_MS))
        await worker.close()
    workspace.egress_socket.unlink(missing_ok=True)
    (end,) = sent.ends
    return end, server.requests, sent


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_plain_answer_arrives_and_only_the_placeholder_key_leaves(workspace: Workspace, dialect: str) -> None:
    end, asked, _ = await run(workspace, dialect, in_order([Reply(text="Hi there, Ana!")]))
    assert (end.ok, end.text, end.steps) == (True, "Hi there, Ana!", 1)
    (request,) = asked
    assert request.path in ("/llm/v1/messages", "/llm/v1/chat/completions")
    assert "placeholder" in (request.headers.get("x-api-key") or request.headers["authorization"])
    assert request.body["stream"] is True
    assert "14:20:00" in request.prompt and "hello" in request.prompt


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_bash_call_runs_and_its_output_goes_back_to_the_model(workspace: Workspace, dialect: str) -> None:
    script = in_order([
        Reply(text="Let me see.", calls=[("bash", {"command": "echo MC-$((6*7)) | tee out.txt"})]),
        Reply(text="It says MC-42."),
    ])
    end, asked, _ = await run(workspace, dialect, script)
    assert (end.ok, end.text, end.steps) == (True, "It says MC-42.", 2)
    assert asked[1].results == ["MC-42"]
    assert (workspace.group / "out.txt").read_text() == "MC-42\n"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_several_calls_in_one_message_are_all_answered_in_order(workspace: Workspace, dialect: str) -> None:
    script = in_order([
        Reply(calls=[
            ("write_file", {"path": "a.txt", "content": "one\n"}),
            ("send_message", {"text": "working"}),
            ("read_file", {"path": "a.txt"}),
        ]),
        Reply(text="ok"),
    ])
    end, asked, sent = await run(workspace, dialect, script)
    assert end.ok
    assert asked[1].results == ["created a.txt (4 bytes)", "send_message done", "one\n"]
    (call,) = [line for line in sent if isinstance(line, ToolCall)]
    assert (call.call_id, call.args) == ("r1.0.1", {"text": "working"})


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_broken_or_unknown_calls_become_results_that_say_why(workspace: Workspace, dialect: str) -> None:
    script = in_order([
        Reply(calls=[("bash", '{"command": "ec'), ("teleport", {}), ("bash", {"cmd": "true"})]),
        Reply(text="sorry"),
    ])
    end, asked, _ = await run(workspace, dialect, script)
    assert end.ok
    broken, unknown, wrong = asked[1].results
    assert "could not be read" in broken
    assert "no tool 'teleport'" in unknown
    assert "wrong arguments" in wrong and "command" in wrong


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_next_turn_knows_the_last_one(workspace: Workspace, dialect: str) -> None:
    script = in_order([Reply(calls=[("list_tasks", {})]), Reply(text="first answer"), Reply(text="second answer")])
    async with FakeLLM(script).serve(unix=workspace.egress_socket) as server:
        worker, _ = worker_for(workspace, dialect)
        await worker.turn(Turn(run_id="r1", prompt="first question", now_ms=NOW_MS))
        await worker.close()
        # A new worker, as after a restart: the conversation is in the session folder.
        worker, sent = worker_for(workspace, dialect)
        await worker.turn(Turn(run_id="r2", prompt="second question", now_ms=NOW_MS + 60_000))
        await worker.close()
    assert sent.ends[0].text == "second answer"
    told = str(server.requests[-1].body["messages"])
    assert told.index("first question") < told.index("list_tasks done") < told.index("first answer")
    assert told.index("first answer") < told.index("second question")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_isolated_turn_knows_nothing_and_leaves_nothing(workspace: Workspace, dialect: str) -> None:
    script = in_order([Reply(text="one"), Reply(text="two"), Reply(text="three")])
    async with FakeLLM(script).serve(unix=workspace.egress_socket) as server:
        worker, sent = worker_for(workspace, dialect)
        await worker.turn(Turn(run_id="r1", prompt="wombats", now_ms=NOW_MS))
        await worker.turn(Turn(run_id="r2", prompt="of its own", now_ms=NOW_MS, session="isolated"))
        await worker.turn(Turn(run_id="r3", prompt="wombats again", now_ms=NOW_MS))
        assert "wombats" not in str(server.requests[1].body["messages"])
        assert "of its own" not in str(server.requests[2].body["messages"])
        # Its end is still known to a host that asks again, its content is forgotten.
        await worker.turn(Turn(run_id="r2", prompt="of its own", now_ms=NOW_MS, session="isolated"))
        await worker.close()
    assert [end.text for end in sent.ends] == ["one", "two", "three", "two"]
    assert not any(b"of its own" in path.read_bytes() for path in workspace.session.rglob("*.jsonl"))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_loop_without_end_is_ended_and_the_last_step_may_not_call(workspace: Workspace, dialect: str) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(calls=[("bash", {"command": "true"})])

    end, asked, _ = await run(workspace, dialect, script, max_steps=3)
    assert (end.ok, end.error_code) == (False, "budget")
    assert len(asked) == 3
    assert str(asked[2].body["tool_choice"]) in ("none", "{'type': 'none'}")
    assert "tool_choice" not in asked[1].body


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_turn_stops_at_its_token_budget(workspace: Workspace, dialect: str) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(calls=[("bash", {"command": "true"})], input_tokens=900, output_tokens=200)

    end, asked, _ = await run(workspace, dialect, script, turn_tokens_max=2000)
    assert (end.ok, end.error_code, len(asked)) == (False, "budget", 2)
    assert "tokens" in end.error


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_turn_stops_at_its_deadline(workspace: Workspace, dialect: str) -> None:
    turn = Turn(run_id="r1", prompt="x", now_ms=NOW_MS, deadline_s=1)
    end, _, _ = await run(workspace, dialect, in_order([Reply(text="late", wait_s=20)]), turn)
    assert (end.ok, end.error_code) == (False, "budget")
    assert "1 s" in end.error


async def test_what_is_cut_off_at_max_tokens_says_so(workspace: Workspace) -> None:
    end, _, _ = await run(workspace, "anthropic", in_order([Reply(text="and then", stop="max_tokens")]))
    assert end.text.startswith("and then") and "cut off" in end.text


async def test_anthropic_requests_ask_for_caching_of_what_stays_the_same(workspace: Workspace) -> None:
    script = in_order([Reply(calls=[("bash", {"command": "true"})]), Reply(text="ok")])
    _, asked, _ = await run(workspace, "anthropic", script)
    first, second = (request.body for request in asked)
    assert first["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert first["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    assert first["system"] == second["system"] and first["tools"] == second["tools"]


async def test_openai_servers_that_know_only_the_old_name_of_the_bound_are_served(workspace: Workspace) -> None:
    def script(asked: Asked) -> Reply:
        if "max_completion_tokens" in asked.body:
            return Reply(status=400, text="Unrecognized request argument supplied: max_completion_tokens")
        return Reply(text=f"bound {asked.body['max_tokens']}")

    end, asked, _ = await run(workspace, "openai", script, max_tokens=77)
    assert (end.text, len(asked)) == ("bound 77", 2)


async def test_openai_without_a_model_name_says_what_to_write(workspace: Workspace) -> None:
    end, asked, _ = await run(workspace, "openai", in_order([]), model="")
    assert (end.error_code, asked) == ("bad_request", [])
    assert "[model] name" in end.error


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_the_model_writes_is_told_as_it_grows(workspace: Workspace, dialect: str) -> None:
    text = "one two three four five six seven eight"
    end, _, sent = await run(workspace, dialect, in_order([Reply(text=text, pace_s=0.4)]))
    assert end.text == text
    told = [line.text for line in sent if isinstance(line, Writing)]
    assert 1 <= len(told) <= 6
    assert all(text.startswith(each) for each in told)
    assert told == sorted(told, key=len)
    assert {line.run_id for line in sent if isinstance(line, Writing)} == {"r1"}
