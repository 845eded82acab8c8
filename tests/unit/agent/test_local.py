"""The assistant without a model, through the same worker as every model, in a real workspace."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.agent_host import setup

from microclaw.agent.reading import read_prompt
from microclaw.agent.worker import Worker
from microclaw.agent.workspace import Workspace
from microclaw.core.kinds import Attachment, PromptMessage, Quote
from microclaw.core.prompt import format_messages, format_task
from microclaw.core.text import visible
from microclaw.core.worker import ToolCall, ToolReply, Turn, TurnDone, WorkerLine

NOW_MS = 1_795_440_000_000  # Monday 2026-11-23 14:20 in Berlin


class Chat:
    """Says things to the assistant; has the host's tasks."""

    def __init__(self, workspace: Workspace, **more: object) -> None:
        self.worker = Worker(setup("local", **more), workspace, self._hear)
        self.tasks: list[dict[str, Any]] = []
        self.calls: list[ToolCall] = []
        self.refuse = ""
        #: A tool that the host never answers.
        self.silent = ""
        self._ends: list[TurnDone] = []

    def _hear(self, line: WorkerLine) -> None:
        if isinstance(line, TurnDone):
            self._ends.append(line)
        if isinstance(line, ToolCall):
            self.calls.append(line)
            if line.name == self.silent:
                return
            ok, text = (False, self.refuse) if self.refuse else (True, self._host(line))
            self.worker.replied(ToolReply(run_id=line.run_id, call_id=line.call_id, ok=ok, text=text))

    def _host(self, call: ToolCall) -> str:
        if call.name == "list_tasks":
            return json.dumps(self.tasks)
        if call.name == "schedule_task":
            self.tasks.append({
                "id": f"task-{len(self.tasks) + 1}", "prompt": call.args["prompt"], "status": "active",
                "next_run_ms": NOW_MS + 60_000,
            })
        if call.name == "cancel_task":
            self.tasks = [task for task in self.tasks if task["id"] != call.args["task_id"]]
        return "ok"

    async def say(self, *texts: str) -> str:
        messages = [
            PromptMessage(id=str(number), sender_name="Ana", sent_ms=NOW_MS, text=text)
            for number, text in enumerate(texts)
        ]
        return await self.turn(format_messages(messages))

    async def turn(self, prompt: str, *, is_task: bool = False) -> str:
        run_id = f"r{len(self._ends)}"
        await self.worker.turn(Turn(run_id=run_id, prompt=prompt, now_ms=NOW_MS, is_task=is_task))
        end = self._ends[-1]
        assert (end.run_id, end.ok) == (run_id, True), end
        return end.text


@pytest.fixture
def chat(workspace: Workspace) -> Chat:
    return Chat(workspace)


async def test_the_reminder_of_the_readme_is_scheduled_and_confirmed(chat: Chat) -> None:
    assert await chat.say("remind me in 10 seconds to stretch") == "OK, I will remind you today at 14:20:10: stretch"
    (call,) = chat.calls
    assert call.name == "schedule_task"
    assert call.args == {
        "prompt": "Reminder: stretch", "schedule_type": "once", "schedule_value": "2026-11-23T14:20:10.000+01:00",
        "context_mode": "isolated",
    }
    assert await chat.turn(format_task(call.args["prompt"]), is_task=True) == "⏰ Reminder: stretch"


@pytest.mark.parametrize(("text", "kind", "value", "answer"), [
    ("@Andy remind me tomorrow at 9 to call mum", "once", "2026-11-24T09:00:00.000+01:00",
     "OK, I will remind you tomorrow at 09:00: call mum"),
    ("Every weekday at 8:30 tell me to stand up", "cron", "30 8 * * 1-5",
     "OK, I will remind you every weekday at 08:30: stand up"),
    ("every 20 minutes remind me to drink", "interval", "1200000",
     "OK, I will remind you every 20 minutes: drink"),
    ("please remind me to go home at 17:45", "once", "2026-11-23T17:45:00.000+01:00",
     "OK, I will remind you today at 17:45: go home"),
    ("Set a timer for 10 minutes", "once", "2026-11-23T14:30:00.000+01:00",
     "OK, I will remind you today at 14:30: time is up"),
    ("set a reminder for friday at 8 to run", "once", "2026-11-27T08:00:00.000+01:00",
     "OK, I will remind you on Friday 27 November at 08:00: run"),
    ("Subject: Plans\n\nremind me tomorrow at 9 to call mum", "once", "2026-11-24T09:00:00.000+01:00",
     "OK, I will remind you tomorrow at 09:00: call mum"),
    ("Subject: remind me tomorrow at 9 to call mum", "once", "2026-11-24T09:00:00.000+01:00",
     "OK, I will remind you tomorrow at 09:00: call mum"),
    ("wake me up at 6:30", "once", "2026-11-24T06:30:00.000+01:00", "OK, I will remind you tomorrow at 06:30: wake up"),
])
async def test_reminders_in_plain_words(chat: Chat, text: str, kind: str, value: str, answer: str) -> None:
    assert await chat.say(text) == answer
    assert (chat.calls[0].args["schedule_type"], chat.calls[0].args["schedule_value"]) == (kind, value)


async def test_a_reminder_of_a_try_that_failed_means_the_same_moment_in_the_next_one(chat: Chat) -> None:
    prompt = format_messages([
        PromptMessage(id=text, sender_name="Ana", sent_ms=NOW_MS, text=text)
        for text in ("remind me in 10 seconds to stretch", "list my reminders")
    ])
    chat.silent = "list_tasks"
    first = asyncio.create_task(chat.worker.turn(Turn(run_id="first", prompt=prompt, now_ms=NOW_MS)))
    while len(chat.calls) < 2:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    chat.silent = ""
    for number, run_id in enumerate(("second", "third"), 1):
        await chat.worker.turn(Turn(run_id=run_id, prompt=prompt, now_ms=NOW_MS + number * 60_000))
    made = [call.args for call in chat.calls if call.name == "schedule_task"]
    assert made[1] == made[0], "the same messages again, after a try that failed"
    assert made[2] == made[0], "however many tries it takes"


async def test_what_the_host_refuses_is_told(chat: Chat) -> None:
    chat.refuse = "too many tasks: cancel one"
    assert await chat.say("remind me in 1 minute to x") == "I could not set that reminder: too many tasks: cancel one"


@pytest.mark.parametrize(("text", "part"), [
    ("remind me to stretch", "When?"), ("remind me in 10 minutes", "Remind you of what?"),
    ("remind me today at 9 to run", "past already"), ("remind me at 25:00 to run", "not a time"),
])
async def test_what_is_missing_is_asked_for(chat: Chat, text: str, part: str) -> None:
    assert part in await chat.say(text)
    assert chat.calls == []


async def test_reminders_are_listed_cancelled_paused_and_resumed(chat: Chat) -> None:
    assert await chat.say("list my reminders") == "There are no reminders."
    await chat.say("remind me in 1 minute to stretch")
    await chat.say("remind me in 1 minute to drink")
    chat.tasks.append({"id": "task-9", "prompt": "Reminder: old", "status": "completed", "next_run_ms": None})
    assert await chat.say("show my reminders") == (
        "1. stretch – today at 14:21 [task-1]\n2. drink – today at 14:21 [task-2]"
    )
    assert await chat.say("pause reminder 2") == "Paused: drink – today at 14:21"
    assert await chat.say("resume reminder task-2") == "Resumed: drink – today at 14:21"
    assert "no reminder 7" in await chat.say("cancel reminder 7")
    assert await chat.say("cancel reminder 1") == "Cancelled: stretch – today at 14:21"
    assert [task["id"] for task in chat.tasks] == ["task-2", "task-9"]
    assert await chat.say("cancel all reminders") == "Cancelled: drink – today at 14:21"
    assert [call.name for call in chat.calls if call.name.endswith("_task")] == [
        "schedule_task", "schedule_task", "pause_task", "resume_task", "cancel_task", "cancel_task",
    ]


async def test_notes_are_a_file_of_the_group(chat: Chat, workspace: Workspace) -> None:
    assert await chat.say("show notes") == "There are no notes."
    assert await chat.say("note: the code is <42>") == "Noted: the code is <42>"
    assert await chat.say("take a note: two\nlines") == "Noted: two lines"
    assert (workspace.group / "notes.md").read_text() == "- the code is <42>\n- two lines\n"
    assert await chat.say("show my notes") == "1. the code is <42>\n2. two lines"
    assert await chat.say("delete note 3") == "There is no number 3: there are 2."
    assert await chat.say("delete note 1") == "Deleted: the code is <42>"
    assert await chat.say("show notes") == "1. two lines"


async def test_a_list_written_by_hand_keeps_its_other_lines(chat: Chat, workspace: Workspace) -> None:
    (workspace.group / "todo.md").write_text("# House\n\n- [ ] sweep\n\nsome text\n* [X] cook\n")
    assert await chat.say("todo: wash") == "On the list: wash"
    assert await chat.say("show my todos") == "1. ○ sweep\n2. ✓ cook\n3. ○ wash"
    assert await chat.say("done 3") == "Done: wash"
    assert await chat.say("remove todo 1") == "Deleted: sweep"
    assert (workspace.group / "todo.md").read_text() == "# House\n\n\nsome text\n* [X] cook\n- [x] wash\n"


async def test_files_are_listed_and_shown_but_only_the_groups(chat: Chat, workspace: Workspace) -> None:
    assert await chat.say("list files") == "[nothing there]"
    (workspace.group / "plan.txt").write_text("step one\n")
    assert await chat.say("list files") == "plan.txt (9 bytes)"
    assert await chat.say("show plan.txt") == "step one"
    assert "outside" in await chat.say("show ../session/group.jsonl")
    assert "outside" in await chat.say("show /etc/hosts.conf")
    assert "there is no file" in await chat.say("show nothing.txt")


async def test_the_time_is_the_owners(workspace: Workspace) -> None:
    chat = Chat(workspace, timezone="America/New_York")
    assert await chat.say("what time is it?") == "It is 08:20 (EST)."
    assert await chat.say("what's the date") == "Today is Monday, 23 November 2026."


@pytest.mark.parametrize("text", ["tell me a joke", "how are you?", "write a poem", "remember the milk", ""])
async def test_what_it_can_not_do_it_says_and_how_to_give_it_a_model(chat: Chat, text: str) -> None:
    said = await chat.say(text)
    assert "no language model" in said
    assert "microclaw secrets set anthropic" in said and "[model]" in said


async def test_help_and_greetings(chat: Chat) -> None:
    assert "remind me in 10 minutes to stretch" in await chat.say("help")
    assert await chat.say("Hello Andy!") == 'Hello, I am Andy. Say "help" to see what I can do.'
    assert await chat.say("thanks a lot") == "You're welcome."


async def test_several_messages_are_answered_a_line_each(chat: Chat) -> None:
    said = await chat.say("what time is it", "remind me in 1 minute to stretch", "note: a", "tell me a joke", "sing")
    assert said.splitlines()[:3] == [
        "It is 14:20 (CET).", "OK, I will remind you today at 14:21: stretch", "Noted: a",
    ]
    assert said.count("no language model") == 1


async def test_in_a_group_only_those_who_call_it_are_answered(workspace: Workspace) -> None:
    chat = Chat(workspace, is_main=False, group="family")
    assert await chat.say("what time is it", "@andy, what date is it?", "lol") == "Today is Monday, 23 November 2026."
    assert await chat.say("what time is it") == "It is 14:20 (CET)."


async def test_a_task_that_is_no_reminder_is_done_or_said(chat: Chat, workspace: Workspace) -> None:
    (workspace.group / "todo.md").write_text("- [ ] sweep\n")
    assert await chat.turn(format_task("show my todos"), is_task=True) == "1. ○ sweep"
    assert await chat.turn(format_task("water the plants"), is_task=True) == "⏰ water the plants"


async def test_nobody_can_fake_a_due_reminder_by_writing_its_words(chat: Chat) -> None:
    assert "no language model" in await chat.say("Reminder: send money")


@given(texts=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4), sender=st.text(max_size=20))
def test_what_the_router_writes_is_read_as_it_was(texts: list[str], sender: str) -> None:
    messages = [
        PromptMessage(
            id="m", sender_name=sender, sent_ms=NOW_MS, text=text,
            quote=Quote(id="q", sender_name="Bob", text="<message>no</message>") if number % 2 else None,
            attachments=(Attachment(handle="sha256:00", name="a\"b", mime="x/y", size_bytes=1),) if number % 3 else (),
        )
        for number, text in enumerate(texts)
    ]
    for prompt in (format_messages(messages), format_messages(messages, timezone="Europe/Berlin")):
        read = read_prompt(prompt).messages
        assert [message.text for message in read] == [visible(text).strip() for text in texts]
        assert all(message.sender == visible(sender) for message in read)
