"""What the process says and when: the contract of `core.worker`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from tests.fakes.agent_host import AgentDiedError, AgentHost, setup

from microclaw.agent import worker as worker_module
from microclaw.agent.worker import Worker
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Alive, Close, Note, ToolCall, ToolReply, Turn, TurnDone, WorkerLine


def turn(run_id: str, prompt: str, **more: object) -> Turn:
    return Turn(run_id=run_id, prompt=prompt, now_ms=1_795_440_000_000, **more)  # type: ignore[arg-type]


async def test_the_end_of_its_input_is_the_end_even_in_a_turn(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        host.send(turn("r1", "#!bash echo $$ > pid; exec sleep 300"))
        async with asyncio.timeout(30):
            while not (workspace.group / "pid").exists() or not (workspace.group / "pid").read_text().strip():
                await asyncio.sleep(0.01)
        pid = int((workspace.group / "pid").read_text())
        assert await host.close_input() == 0
        async with asyncio.timeout(20):
            while _runs(pid):
                await asyncio.sleep(0.01)
    async with AgentHost(workspace.root, setup("scripted")) as host:
        assert await host.close_input() == 0


def _runs(pid: int) -> bool:
    """A dead process that nobody has collected yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_close_waits_for_the_turns_that_came_before_it(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        for number in range(3):
            host.send(turn(f"r{number}", f"#!sleep 0.1\n#!say {number}"))
        host.send(Close())
        assert await asyncio.wait_for(host.process.wait(), 30) == 0
        assert host.process.stdout is not None
        rest = (await host.process.stdout.read()).decode()
    assert [rest.count(f'"text":"{number}"') for number in range(3)] == [1, 1, 1]


async def test_turns_are_done_one_after_the_other_and_each_has_one_end(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        for number in range(5):
            host.send(turn(f"r{number}", "#!tool send_message {\"text\": \"x\"}\n#!say " + str(number)))
        events: list[str] = []
        while len([event for event in events if event.startswith("end")]) < 5:
            match await host.hear():
                case ToolCall() as call:
                    events.append(f"call {call.run_id}")
                    host.send(ToolReply(run_id=call.run_id, call_id=call.call_id, ok=True, text="ok"))
                case TurnDone() as done:
                    events.append(f"end {done.run_id}")
                case Alive() | Note():
                    pass
    assert events == [event for number in range(5) for event in (f"call r{number}", f"end r{number}")]


async def test_the_same_turn_twice_at_once_has_one_end(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        host.send(turn("r1", "#!sleep 0.2\n#!say once"))
        host.send(turn("r1", "#!sleep 0.2\n#!say once"))
        host.send(turn("r2", "#!say next"))
        ends: list[TurnDone] = []
        while not ends or ends[-1].run_id != "r2":
            if isinstance(line := await host.hear(), TurnDone):
                ends.append(line)
        assert [end.run_id for end in ends] == ["r1", "r2"]
        assert any("under way already" in note for note in host.notes)


@pytest.mark.parametrize("line", [b"not json\n", b"[]\n", b'{"type":"dance"}\n', b'{"type":"turn","run_id":1}\n'])
async def test_a_line_that_makes_no_sense_ends_it_with_a_reason(workspace: Workspace, line: bytes) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        assert host.process.stdin is not None
        host.process.stdin.write(line)
        assert isinstance(note := await host.hear(), Note)
        assert "can't be read" in note.text
        assert await asyncio.wait_for(host.process.wait(), 30) == 2


async def test_a_line_over_the_limit_ends_it(workspace: Workspace) -> None:
    async with AgentHost(workspace.root, setup("scripted")) as host:
        assert host.process.stdin is not None
        host.process.stdin.write(b'{"type":"close","x":"' + b"a" * (1 << 20) + b'"}\n')
        assert isinstance(note := await host.hear(), Note)
        assert "longer than" in note.text


async def test_an_unknown_time_zone_is_refused_at_the_start(workspace: Workspace) -> None:
    with pytest.raises(AgentDiedError, match=r"exit code 2 .*Mars/Atlantis"):
        async with AgentHost(workspace.root, setup("local", timezone="Mars/Atlantis")):
            pass


async def test_signs_of_life_come_while_a_turn_is_under_way(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker_module.ALIVE_EVERY_S <= 10
    monkeypatch.setattr(worker_module, "ALIVE_EVERY_S", 0.02)
    sent: list[WorkerLine] = []
    worker = Worker(setup("scripted"), workspace, sent.append)
    await worker.turn(turn("r1", "#!sleep 0.3"))
    alive = [line for line in sent if isinstance(line, Alive)]
    assert len(alive) >= 3
    assert alive[-1].doing == "tool script_sleep"
    assert isinstance(sent[-1], TurnDone)


async def test_a_failure_inside_is_the_turns_end_and_not_the_workers(workspace: Workspace) -> None:
    sent: list[WorkerLine] = []
    worker = Worker(setup("scripted"), workspace, sent.append)
    await worker.turn(turn("r1", "#!sleep soon"))
    await worker.turn(turn("r2", "#!say still here"))
    first, second = (line for line in sent if isinstance(line, TurnDone))
    assert (first.ok, first.error_code) == (False, "crashed")
    assert second.text == "still here"


@pytest.mark.parametrize("code", ["model_down", "rate_limited", "bad_key", "bad_request", "too_long", "budget"])
async def test_a_script_can_fail_with_every_code(workspace: Workspace, code: str) -> None:
    sent: list[WorkerLine] = []
    worker = Worker(setup("scripted"), workspace, sent.append, first_wait_s=0.001)
    await worker.turn(turn("r1", f"#!fail {code} because of the script"))
    (end,) = [line for line in sent if isinstance(line, TurnDone)]
    assert (end.ok, end.error_code, end.error) == (False, code, "because of the script")


async def test_without_a_script_each_message_is_echoed(workspace: Workspace) -> None:
    sent: list[WorkerLine] = []
    worker = Worker(setup("scripted"), workspace, sent.append)
    await worker.turn(turn("r1", "just text"))
    await worker.turn(turn(
        "r2",
        '<messages>\n<message sender="A" time="t">1 &lt; 2</message>\n<message sender="B" time="t">two</message>\n'
        "</messages>",
    ))
    assert [line.text for line in sent if isinstance(line, TurnDone)] == ["echo: just text", "echo: 1 < 2\necho: two"]


async def test_it_starts_fast_and_without_the_sdks(workspace: Workspace) -> None:
    """The bound is generous for a busy machine; measured 0.13 s on a quiet one."""
    code = (
        "import sys, microclaw.agent.__main__, microclaw.agent.local.backend\n"
        "print(*{'anthropic', 'openai', 'httpx2', 'pydantic', 'http.client'} & set(sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.split() == []
    best = 9.0
    for _ in range(3):
        began = time.monotonic()
        async with AgentHost(workspace.root):
            best = min(best, time.monotonic() - began)
    assert best < 1.0
