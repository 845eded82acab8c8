"""The agent as a real process, killed with -9 at random instants and started again until its turn is done."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.fakes.agent_host import AgentDiedError, AgentHost, setup
from tests.fakes.llm_server import Asked, FakeLLM, Reply

from microclaw.agent.workspace import Workspace
from microclaw.core.worker import ToolCall, ToolReply, Turn, TurnDone

STEPS = 6
NOW_MS = 1_795_440_000_000


def script() -> str:
    lines = []
    for number in range(STEPS):
        lines.append(f"#!quiet bash {{\"command\": \"echo {number} >> log.txt\"}}")
        lines.append(f"#!quiet send_message {{\"text\": \"message {number}\"}}")
    return "\n".join([*lines, "#!say finished"])


async def live(
    workspace: Workspace, turn: Turn, heard: list[ToolCall], life_s: float, **more: object
) -> TurnDone | None:
    """One life of the process, ended after `life_s`; the turn's end if it came to that."""
    async with AgentHost(workspace.root, setup(**more), workspace.egress_socket) as host:  # type: ignore[arg-type]

        def answer(call: ToolCall) -> str:
            heard.append(call)
            return "sent"

        doing = asyncio.create_task(host.turn(turn, answer))
        await asyncio.wait({doing}, timeout=life_s)
        if doing.done():
            return doing.result()
        await host.kill()
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        return None


def check(workspace: Workspace, heard: list[ToolCall]) -> None:
    log = (workspace.group / "log.txt").read_text().split()
    assert len(log) == len(set(log)), f"a command ran twice: {log}"
    by_id = {call.call_id: call for call in heard}
    assert sorted(str(call.args["text"]) for call in by_id.values()) == [f"message {n}" for n in range(STEPS)]
    assert all(by_id[call.call_id] == call for call in heard), "a repeated call changed"


@pytest.mark.parametrize("seed", range(4))
async def test_a_scripted_turn_survives_kills(workspace: Workspace, seed: int) -> None:
    chance = random.Random(seed)
    turn = Turn(run_id=f"run-{seed}", prompt=script(), now_ms=NOW_MS)
    heard: list[ToolCall] = []
    done = None
    for _ in range(4):
        done = done or await live(workspace, turn, heard, chance.uniform(0, 0.06), backend="scripted")
    done = done or await live(workspace, turn, heard, 30, backend="scripted")
    assert done is not None and done.ok and done.text == "finished"
    check(workspace, heard)
    # The host asks once more, as after its own crash: the same words, and nothing is done.
    heard.clear()
    assert await live(workspace, turn, heard, 30, backend="scripted") == done
    assert heard == []


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_a_turn_of_a_real_sdk_survives_kills(workspace: Workspace, dialect: str) -> None:
    chance = random.Random(dialect)
    turn = Turn(run_id="run-1", prompt="do it", now_ms=NOW_MS)
    heard: list[ToolCall] = []

    def model(asked: Asked) -> Reply:
        if asked.step == STEPS:
            return Reply(text="finished")
        return Reply(calls=[
            ("bash", {"command": f"echo {asked.step} >> log.txt"}), ("send_message", {"text": f"message {asked.step}"}),
        ])

    async with FakeLLM(model).serve(unix=workspace.egress_socket):
        done = None
        for _ in range(2):
            # The SDK's import takes its time: the clock of the kill starts before it, so it may hit anywhere.
            done = done or await live(
                workspace, turn, heard, chance.uniform(0.8, 1.8), backend=dialect, model="test"
            )
        done = done or await live(workspace, turn, heard, 90, backend=dialect, model="test")
    assert done is not None and done.ok and done.text == "finished"
    check(workspace, heard)


async def test_a_call_without_an_answer_is_sent_again_under_its_name(workspace: Workspace) -> None:
    turn = Turn(run_id="run-1", prompt="#!tool send_message {\"text\": \"hi\"}", now_ms=NOW_MS)
    calls: list[ToolCall] = []
    for _ in range(2):
        async with AgentHost(workspace.root, setup("scripted")) as host:
            host.send(turn)
            while not isinstance(line := await host.hear(), ToolCall):
                pass
            calls.append(line)
            await host.kill()
    assert calls[0] == calls[1]
    async with AgentHost(workspace.root, setup("scripted")) as host:
        done = await host.turn(turn, lambda call: f"sent {call.call_id}")
    assert done.text == f"sent {calls[0].call_id}"


async def test_a_scripted_crash_happens_once_and_the_turn_goes_on_after_it(workspace: Workspace) -> None:
    turn = Turn(run_id="run-1", prompt="#!bash echo before\n#!crash\n#!say after", now_ms=NOW_MS)
    async with AgentHost(workspace.root, setup("scripted")) as host:
        with pytest.raises(AgentDiedError, match="exit code 70"):
            await host.turn(turn)
    async with AgentHost(workspace.root, setup("scripted")) as host:
        assert (await host.turn(turn)).text == "before\nafter"


async def test_a_command_that_was_running_is_not_run_again_but_reported(workspace: Workspace) -> None:
    turn = Turn(run_id="run-1", prompt="#!bash echo x >> log.txt; sleep 60", now_ms=NOW_MS)
    async with AgentHost(workspace.root, setup("scripted")) as host:
        host.send(turn)
        async with asyncio.timeout(30):
            while not (workspace.group / "log.txt").exists():
                await asyncio.sleep(0.01)
        await host.kill()
    async with AgentHost(workspace.root, setup("scripted")) as host:
        done = await host.turn(turn)
    assert done.ok and done.text == "interrupted: it is not known whether it completed"
    assert (workspace.group / "log.txt").read_text() == "x\n"


async def test_a_late_answer_of_another_turn_is_left_alone(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        host.send(ToolReply(run_id="old", call_id="old.0.0", ok=True, text="late"))
        done = await host.turn(Turn(run_id="run-1", prompt="#!say fine", now_ms=NOW_MS))
    assert done.text == "fine"
