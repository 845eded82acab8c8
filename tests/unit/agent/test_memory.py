"""What the model is told before everything else: the rules, then the memory files in one order, bounded, nothing
followed."""

from __future__ import annotations

import os

import pytest
from tests.fakes.agent_host import setup

from microclaw.agent.memory import ALL_BYTES_MAX, DAY_BYTES_MAX, FILE_BYTES_MAX
from microclaw.agent.system_prompt import system_prompt
from microclaw.agent.tools.errors import ToolError
from microclaw.agent.workspace import Workspace
from microclaw.core.memory_files import NAMES

#: 2026-11-23 23:30 UTC: in Berlin it is the 24th already.
NOW_MS = 1_795_476_600_000


def told(workspace: Workspace, *, is_main: bool = False) -> str:
    return system_prompt(setup("anthropic", group="family", is_main=is_main), workspace, NOW_MS)


def test_it_tells_who_and_where_and_what_main_may(workspace: Workspace) -> None:
    text = told(workspace)
    assert "You are Andy" in text and '"family"' in text and "Europe/Berlin" in text and "<internal>" in text
    assert "register" not in text and "register" in told(workspace, is_main=True)


def test_every_memory_file_of_both_folders_is_told_in_one_order(workspace: Workspace) -> None:
    for folder in (workspace.group, workspace.shared):
        for name in reversed(NAMES):
            (folder / name).write_text(f"says {folder.name} {name}")
    text = told(workspace)
    places = [text.index(f"says {folder} {name}") for folder in ("global", "group") for name in NAMES]
    assert places == sorted(places)
    assert told(workspace) == text, "the same, so that it is cached"


def test_long_term_memory_is_told_in_the_owners_group_alone(workspace: Workspace) -> None:
    (workspace.group / "MEMORY.md").write_text("the owner's secret wish")
    (workspace.shared / "MEMORY.md").write_text("nobody's")
    (workspace.group / "memory").mkdir()
    for day in ("22", "23", "24", "25"):
        (workspace.group / "memory" / f"2026-11-{day}.md").write_text(f"notes of the {day}.")
    private = told(workspace, is_main=True)
    assert "secret wish" in private
    assert private.index("notes of the 23.") < private.index("notes of the 24.")
    assert "notes of the 22." not in private and "notes of the 25." not in private
    assert not any(part in told(workspace) for part in ("secret wish", "notes of", "nobody's"))


def test_the_same_text_under_two_names_is_told_once(workspace: Workspace) -> None:
    for name in ("CLAUDE.md", "AGENTS.md"):
        (workspace.group / name).write_text("Ana is allergic to nuts.\n")
    assert told(workspace).count("allergic") == 1


def test_one_file_and_all_together_are_bounded(workspace: Workspace) -> None:
    (workspace.group / "CLAUDE.md").write_text("m" * (FILE_BYTES_MAX + 5))
    assert f"[only the first {FILE_BYTES_MAX} bytes]" in told(workspace)
    (workspace.group / "memory").mkdir()
    (workspace.group / "memory" / "2026-11-24.md").write_text("morning " * DAY_BYTES_MAX + "newest")
    assert f"[only the last {DAY_BYTES_MAX} bytes]" in told(workspace, is_main=True)
    assert "newest" in told(workspace, is_main=True)
    for number, name in enumerate(NAMES):
        (workspace.shared / name).write_text(f"{number}" * FILE_BYTES_MAX)
    text = told(workspace, is_main=True)
    assert "left out" in text and len(text.encode()) < ALL_BYTES_MAX + 8_000


@pytest.mark.parametrize("is_main", [True, False])
def test_no_link_pipe_or_folder_is_followed_or_stops_it(workspace: Workspace, is_main: bool) -> None:
    secret = workspace.session / "2026-11-24.md"
    secret.write_text("secret")
    (workspace.shared / "CLAUDE.md").symlink_to(secret)
    (workspace.group / "MEMORY.md").symlink_to(secret)
    (workspace.group / "memory").symlink_to(workspace.session)
    os.mkfifo(workspace.group / "AGENTS.md")
    (workspace.group / "SOUL.md").mkdir()
    assert "secret" not in told(workspace, is_main=is_main)
    (workspace.group / "memory").unlink()
    (workspace.group / "memory").mkdir()
    (workspace.group / "memory" / "2026-11-24.md").symlink_to(secret)
    assert "secret" not in told(workspace, is_main=is_main)


def test_shared_memory_is_for_main_to_write(workspace: Workspace) -> None:
    shared = str(workspace.shared / "CLAUDE.md")
    with pytest.raises(ToolError, match="outside"):
        workspace.writable(shared)
    main = Workspace(workspace.root, workspace.egress_socket, shared_is_writable=True)
    assert main.writable(shared) == workspace.shared.resolve() / "CLAUDE.md"
    with pytest.raises(ToolError, match="outside"):
        main.writable(str(workspace.session / "x"))
