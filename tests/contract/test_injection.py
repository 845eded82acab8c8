"""Injected text: in the prompt it stays what somebody wrote, and an agent that obeys it still meets every gate."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tests.contract.house import House, house
from tests.contract.injections import INJECTIONS, Injection

from microclaw.agent.conversation import Call, Result
from microclaw.agent.reading import read_prompt
from microclaw.agent.tools.schemas import TOOLS
from microclaw.agent.tools.toolbox import Toolbox
from microclaw.agent.workspace import Workspace
from microclaw.core.kinds import Attachment, MessageReceived, PromptMessage, Quote
from microclaw.core.prompt import format_messages
from microclaw.core.requests import TaskAnswer
from microclaw.core.text import visible

#: Tokens that models' templates are made of; `[INST]` and words stand inside a message's own element.
TEMPLATE = re.compile(r"<\|[a-z_]+\|>|<<SYS>>|</?s>|<(start|end)_of_turn>|</?(tool_call|function_calls|think|invoke)\b")


def test_there_are_enough_of_them() -> None:
    assert len(INJECTIONS) >= 50 and len({each.text for each in INJECTIONS}) == len(INJECTIONS)


@pytest.mark.parametrize("place", ["text", "sender", "quote", "quoted sender", "file"])
@pytest.mark.parametrize("timezone", ["", "Europe/Berlin"])
def test_ac49_ac50_wherever_it_stands_it_is_told_as_that_persons_words(place: str, timezone: str) -> None:
    for injection in INJECTIONS:
        check(injection, place, timezone)


def check(injection: Injection, place: str, timezone: str) -> None:
    there = injection.text
    bad = PromptMessage(
        id="2", sender_name=there if place == "sender" else "Mallory", sent_ms=2,
        text=there if place == "text" else "hi",
        quote=Quote(
            id="1", sender_name=there if place == "quoted sender" else "Bob", text=there if place == "quote" else "q",
        ) if "quote" in place else None,
        attachments=(Attachment(handle="sha256:0", name=there, mime="x/y", size_bytes=1),) if place == "file" else (),
    )
    owner = PromptMessage(id="1", sender_name="Owner", sent_ms=1, text="good morning")
    prompt = format_messages([owner, bad, owner], timezone=timezone)
    root = ElementTree.fromstring(f"<all>{prompt}</all>").find("messages")
    assert root is not None
    assert [element.tag for element in root] == ["message"] * 3, injection
    assert [element.get("sender") for element in root][::2] == ["Owner", "Owner"], injection
    assert read_prompt(prompt).messages[1].sender == visible(bad.sender_name), injection
    assert len(read_prompt(prompt).messages) == 3 and not read_prompt(prompt).is_task, injection
    assert TEMPLATE.search(prompt) is None, injection
    assert visible(prompt) == prompt, f"something in it is written unseen: {injection}"


async def scene(made: House) -> None:
    """The owner's main group with a task, a family, and a group where nobody ever wrote."""
    made.router.registry.ensure_main("console:main")
    await made.register("wa:fam", "fam")
    await made.register("wa:quiet", "quiet")
    for chat in ("console:main", "wa:fam"):
        await made.hears(MessageReceived(
            chat=chat, platform_id="1", sender="x", sender_name="X", text="my password is 4711", sent_ms=1,
        ))
    assert isinstance(made.clock.try_create("interval", "600000", group="main", chat="console:main"), TaskAnswer)


@pytest.mark.parametrize("is_main", [False, True], ids=["a group", "main"])
async def test_ac49_an_agent_that_obeys_every_one_of_them_still_meets_every_gate(
    is_main: bool, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path, tmp_path / "egress.sock", shared_is_writable=is_main)
    for name in ("group", "session", "global"):
        (tmp_path / name).mkdir()
    async with house() as made:
        await scene(made)
        before = [row.id for row in made.clock.rows()], [group.chat for group in made.router.registry.all()]
        group, chat = ("main", "console:main") if is_main else ("fam", "wa:fam")

        async def ask_host(call: Call) -> Result:
            reply = await made.call(group, chat, is_main, call.name, call.args)
            return Result(call_id=call.call_id, ok=reply.ok, text=reply.text)

        tools = Toolbox(workspace, ask_host)
        for number, injection in enumerate(INJECTIONS):
            name, args = injection.wants
            result = await tools.run(Call(call_id=f"c{number}", name=name, args=args))
            assert not result.ok or may_do(name, args, is_main=is_main), (injection.source, name)
        sent = {reply.chat for reply in made.replies() if reply.origin == "message"}
        # Main may write to the owner's own chat; to nobody else without the owner's yes.
        assert sent <= ({"console:main"} if is_main else set())
        after = [row.id for row in made.clock.rows()], [group.chat for group in made.router.registry.all()]
        assert after == before
        asked = {action.target for action in made.bus.asked}
        assert asked == ({"wa:quiet"} if is_main else set()), "the owner is asked, by the house"
        # What every group is told is main's to write; that it was is in its conversation.
        assert (workspace.shared / "CLAUDE.md").exists() is is_main


def may_do(name: str, args: dict[str, object], *, is_main: bool) -> bool:
    """What stays with the owner: reading what it may see, writing to the owner's own chat and the shared memory."""
    return is_main and (
        name in ("list_groups", "search_messages", "write_file") or args.get("chat") == "console:main"
    )


def test_every_tool_that_the_list_names_is_one_of_ours_or_none() -> None:
    assert {each.wants[0] for each in INJECTIONS} - set(TOOLS) == {"approve"}
