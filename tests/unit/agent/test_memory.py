"""What the model is told before everything else: the rules, then what the host says is to be remembered."""

from __future__ import annotations

import pytest
from tests.fakes.agent_host import setup

from microclaw.agent.system_prompt import system_prompt
from microclaw.agent.tools.errors import ToolError
from microclaw.agent.workspace import Workspace


def told(*, is_main: bool = False, memory: str = "") -> str:
    return system_prompt(setup("anthropic", group="family", is_main=is_main), memory)


def test_it_tells_who_and_where_and_what_main_may() -> None:
    text = told()
    assert "You are Andy" in text and '"family"' in text and "Europe/Berlin" in text and "<internal>" in text
    assert "register" not in text and "register" in told(is_main=True)


def test_memory_is_told_last_and_as_the_host_says_it() -> None:
    memory = "# Shared memory (global/SOUL.md)\nkind"
    assert told(memory=memory) == f"{told()}\n\n{memory}"


def test_shared_memory_is_for_main_to_write(workspace: Workspace) -> None:
    shared = str(workspace.shared / "CLAUDE.md")
    with pytest.raises(ToolError, match="outside"):
        workspace.writable(shared)
    main = Workspace(workspace.root, workspace.egress_socket, shared_is_writable=True)
    assert main.writable(shared) == workspace.shared.resolve() / "CLAUDE.md"
    with pytest.raises(ToolError, match="outside"):
        main.writable(str(workspace.session / "x"))
