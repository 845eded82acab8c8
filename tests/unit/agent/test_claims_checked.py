"""An answer that claims what no tool did is not simply sent: the real loop and SDKs, a model over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes.agent_host import AgentHost, setup
from tests.fakes.llm_server import Asked, FakeLLM, Reply

from microclaw.agent.conversation import Said
from microclaw.agent.transcript import Transcript
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import ToolCall, Turn, TurnDone

NOW_MS = 1_795_440_000_000
CLAIM = "I've set a reminder for 6 pm."
SCHEDULE = ("schedule_task", {"prompt": "remind", "schedule_type": "once", "schedule_value": "2026-11-24T18:00:00"})


class Talk:
    """A model that gives these replies in their order."""

    def __init__(self, workspace: Workspace, replies: Sequence[Reply], dialect: str = "anthropic") -> None:
        self.workspace, self.dialect = workspace, dialect
        self.left = list(replies)
        self.asked: list[Asked] = []
        self.called: list[ToolCall] = []
        self.refuses = False

    def _model(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        return self.left.pop(0)

    def _tool(self, call: ToolCall) -> str:
        self.called.append(call)
        return "error: refused" if self.refuses else "Task t is scheduled."

    async def turn(self, run_id: str = "r1", backend: str = "", prompt: str = "remind me") -> TurnDone:
        """In a process of its own, as after a restart."""
        self.workspace.egress_socket.unlink(missing_ok=True)
        async with (
            FakeLLM(self._model).serve(unix=self.workspace.egress_socket),
            AgentHost(
                self.workspace.root, setup(backend or self.dialect, model="m"), self.workspace.egress_socket
            ) as host,
        ):
            return await host.turn(Turn(run_id=run_id, prompt=prompt, now_ms=NOW_MS), self._tool)

    @property
    def told(self) -> str:
        return json.dumps(self.asked[-1].body["messages"], ensure_ascii=False)


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_pain38_a_model_that_claims_without_a_tool_is_told_once_and_then_does_it(
    workspace: Workspace, dialect: str
) -> None:
    talk = Talk(workspace, [Reply(text=CLAIM), Reply(calls=[SCHEDULE]), Reply(text=CLAIM)], dialect)
    done = await talk.turn()
    assert done.ok and done.text == CLAIM and [call.name for call in talk.called] == ["schedule_task"]
    assert talk.told.count("No tool call of this turn did that") == 1 and CLAIM in talk.told


async def test_pain38_a_model_that_takes_it_back_is_sent_as_it_says(workspace: Workspace) -> None:
    talk = Talk(workspace, [Reply(text="Done."), Reply(text="I have not set it yet: for when?")])
    assert (await talk.turn()).text == "I have not set it yet: for when?"


async def test_pain38_a_model_that_claims_it_again_is_sent_with_an_honest_note(workspace: Workspace) -> None:
    talk = Talk(workspace, [Reply(text=CLAIM), Reply(text=f"As I said. {CLAIM}")])
    done = await talk.turn()
    assert done.ok and len(talk.asked) == 2
    assert done.text == f"As I said. {CLAIM}\n\n[Not confirmed: I used no tool in this turn that did this: “{CLAIM}”]"


async def test_pain38_a_tool_that_was_refused_backs_nothing(workspace: Workspace) -> None:
    talk = Talk(workspace, [Reply(calls=[("schedule_task", {})]), Reply(text=CLAIM), Reply(text="It failed, sorry.")])
    assert (await talk.turn()).text == "It failed, sorry." and "No tool call" in talk.told


async def test_pain38_what_an_earlier_turn_did_may_be_spoken_of(workspace: Workspace) -> None:
    said = "Your reminder is set for 18:00."
    talk = Talk(workspace, [Reply(calls=[SCHEDULE]), Reply(text=CLAIM), Reply(text=said)])
    await talk.turn("r1")
    assert (await talk.turn("r2", prompt="is it set?")).text == said and len(talk.asked) == 3


async def test_pain38_ordinary_answers_cost_no_second_question(workspace: Workspace) -> None:
    talk = Talk(workspace, [Reply(text="I can set a reminder for 6 pm. Shall I?")])
    assert (await talk.turn()).text == "I can set a reminder for 6 pm. Shall I?" and len(talk.asked) == 1


async def test_pain38_killed_after_it_was_told_it_is_not_told_again(workspace: Workspace) -> None:
    talk = Talk(workspace, [Reply(text=CLAIM), Reply(status=400, text="no"), Reply(text="I have not done it.")])
    assert (await talk.turn()).error_code == "bad_request"
    # The end is lost, as by a kill: the turn goes on from its file.
    file = workspace.session / "group.jsonl"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if '"what":"done"' not in line))
    assert (await talk.turn()).text == "I have not done it."
    assert talk.told.count("No tool call of this turn did that") == 1


def test_what_a_model_was_told_of_its_answer_stays_when_the_file_is_made_shorter(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "group.jsonl")
    log = transcript.begin("r1", "remind me", NOW_MS, is_task=False)
    transcript.said(log, Said(text=CLAIM))
    transcript.doubted(log, "you did not")
    transcript.keep_only([log])
    transcript.close()
    (step,) = Transcript(tmp_path / "group.jsonl").turns["r1"].steps
    assert step.doubt == "you did not"


async def test_the_built_in_skills_are_believed(workspace: Workspace) -> None:
    talk = Talk(workspace, [])
    assert (await talk.turn(backend="scripted", prompt=f"#!say {CLAIM}")).text == CLAIM
