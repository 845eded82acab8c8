"""The tools in the sandbox: what they do, what bounds them, and what they refuse."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from microclaw.agent.conversation import Call, Result
from microclaw.agent.tools.schemas import TOOLS, offered
from microclaw.agent.tools.toolbox import RESULT_CHARS_MAX, Toolbox
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import HOST_TOOLS


class Tools:
    def __init__(self, workspace: Workspace) -> None:
        self.asked: list[Call] = []
        self._box = Toolbox(workspace, self._host)

    async def _host(self, call: Call) -> Result:
        self.asked.append(call)
        return Result(call_id=call.call_id, ok=True, text="from the host")

    async def __call__(self, name: str, **args: Any) -> Result:
        return await self._box.run(Call(call_id="c", name=name, args=args))

    async def ok(self, name: str, **args: Any) -> str:
        result = await self(name, **args)
        assert result.ok, result.text
        return result.text

    async def refused(self, name: str, **args: Any) -> str:
        result = await self(name, **args)
        assert not result.ok, result.text
        return result.text


@pytest.fixture
def tools(workspace: Workspace) -> Tools:
    return Tools(workspace)


def test_the_host_tools_are_those_of_the_contract() -> None:
    assert {name for name, spec in TOOLS.items() if spec.effect == "host"} == set(HOST_TOOLS)
    assert {spec.name for spec in offered(True)} - {spec.name for spec in offered(False)} == {
        "register_group", "list_groups",
    }


@pytest.mark.parametrize("name", TOOLS)
def test_every_schema_is_a_closed_object_without_references(name: str) -> None:
    schema = TOOLS[name].parameters
    assert schema["type"] == "object"
    assert "$ref" not in str(schema)
    assert TOOLS[name].description.endswith(".")
    assert set(schema.get("required", ())) <= set(schema["properties"])


async def test_wrong_arguments_never_reach_the_host(tools: Tools) -> None:
    wrong = await tools.refused("schedule_task", prompt="x", schedule_type="hourly", schedule_value="1")
    assert "wrong arguments" in wrong
    assert "wrong arguments" in await tools.refused("send_message", text="")
    assert tools.asked == []
    assert await tools.ok("send_message", text="hi") == "from the host"


async def test_a_task_knows_the_conversation_unless_the_model_says_otherwise(tools: Tools) -> None:
    task = {"prompt": "x", "schedule_type": "once", "schedule_value": "2099-01-01T00:00:00"}
    await tools.ok("schedule_task", **task)
    await tools.ok("schedule_task", **task, context_mode="isolated")
    assert [call.args for call in tools.asked] == [task | {"context_mode": mode} for mode in ("group", "isolated")]


# --- bash -------------------------------------------------------------------------------------------------------


async def test_bash_runs_in_the_groups_folder_and_tells_how_it_ended(tools: Tools, workspace: Workspace) -> None:
    assert await tools.ok("bash", command="pwd") == str(workspace.group.resolve())
    assert await tools.ok("bash", command="true") == "[no output]"
    assert await tools.ok("bash", command="echo out; echo err >&2; exit 3") == "out\nerr\n[exit code 3]"
    assert await tools.ok("bash", command="kill -TERM $$") == "[ended by signal 15]"


async def test_a_command_that_takes_too_long_is_ended_with_all_its_children(tools: Tools, workspace: Workspace) -> None:
    began = time.monotonic()
    text = await tools.ok("bash", command="sleep 100 & echo $! > child; wait", timeout_s=1)
    assert "[ended after 1 s: it took too long]" in text
    assert time.monotonic() - began < 20
    await _gone(int((workspace.group / "child").read_text()))


async def test_what_a_command_leaves_in_the_background_is_ended_with_it(tools: Tools, workspace: Workspace) -> None:
    began = time.monotonic()
    assert await tools.ok("bash", command="sleep 100 & echo $! > child; echo done") == "done"
    assert time.monotonic() - began < 20
    await _gone(int((workspace.group / "child").read_text()))


async def test_a_daemon_that_keeps_the_output_open_does_not_hold_the_turn(tools: Tools, workspace: Workspace) -> None:
    began = time.monotonic()
    assert await tools.ok("bash", command="setsid sleep 30 & echo $! > child; echo done") == "done"
    assert time.monotonic() - began < 20
    for line in (workspace.group / "child").read_text().split():
        _end(int(line))


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


async def _gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while _state(pid) not in ("", "Z"):
            await asyncio.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def test_long_output_keeps_its_beginning_and_its_end_in_little_memory(tools: Tools) -> None:
    text = await tools.ok("bash", command="echo first; head -c 30000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert len(text) < RESULT_CHARS_MAX + 200
    assert text.startswith("first\n") and text.endswith("last")
    assert "left out" in text


async def test_output_that_is_no_text_is_shown_as_far_as_it_is(tools: Tools) -> None:
    assert "ok" in await tools.ok("bash", command="printf '\\377\\376ok'")


# --- files ------------------------------------------------------------------------------------------------------


async def test_files_are_written_read_and_edited(tools: Tools, workspace: Workspace) -> None:
    assert await tools.ok("write_file", path="a/b.txt", content="one\ntwo\ntwo\n") == "created a/b.txt (12 bytes)"
    assert await tools.ok("read_file", path="a/b.txt") == "one\ntwo\ntwo\n"
    assert await tools.ok("read_file", path="a/b.txt", first_line=2, lines=1) == "2\ttwo\n\n[lines 2 to 2 of 3]"
    assert "there 2 times" in await tools.refused("edit_file", path="a/b.txt", old="two", new="2")
    assert "not in a/b.txt" in await tools.refused("edit_file", path="a/b.txt", old="three", new="3")
    assert await tools.ok("edit_file", path="a/b.txt", old="two", new="2", all=True) == "replaced 2 places in a/b.txt"
    assert (workspace.group / "a" / "b.txt").read_text() == "one\n2\n2\n"
    assert not list((workspace.group / "a").glob(".*")), "nothing is left beside the file"


async def test_an_edit_keeps_the_files_permissions(tools: Tools, workspace: Workspace) -> None:
    await tools.ok("write_file", path="run.sh", content="echo 1\n")
    (workspace.group / "run.sh").chmod(0o755)
    await tools.ok("edit_file", path="run.sh", old="1", new="2")
    assert (workspace.group / "run.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "path", ["../session/x", "/etc/passwd", "link/x", "link", "a/../../session/x", "/proc/self/environ"]
)
async def test_no_path_leads_out_of_the_folder(tools: Tools, workspace: Workspace, path: str) -> None:
    (workspace.session / "x").write_text("secret")
    (workspace.group / "link").symlink_to(workspace.session)
    for call in (
        ("read_file", {"path": path}), ("write_file", {"path": path, "content": "mine"}),
        ("list_files", {"path": path}), ("edit_file", {"path": path, "old": "secret", "new": "mine"}),
        ("grep", {"path": path, "pattern": "secret"}),
    ):
        assert "outside" in await tools.refused(call[0], **call[1])
    assert (workspace.session / "x").read_text() == "secret"


async def test_a_file_that_is_a_link_out_is_not_followed(tools: Tools, workspace: Workspace) -> None:
    (workspace.session / "x").write_text("secret")
    (workspace.group / "notes.md").symlink_to(workspace.session / "x")
    assert "outside" in await tools.refused("read_file", path="notes.md")
    assert "outside" in await tools.refused("write_file", path="notes.md", content="mine")
    assert "secret" not in await tools.ok("bash", command="true") + (await tools("grep", pattern="secret")).text


async def test_shared_memory_can_be_read_but_not_written(tools: Tools, workspace: Workspace) -> None:
    (workspace.shared / "CLAUDE.md").write_text("we like tea\n")
    path = str(workspace.shared / "CLAUDE.md")
    assert await tools.ok("read_file", path=path) == "we like tea\n"
    assert "outside" in await tools.refused("write_file", path=path, content="we like coffee")


async def test_a_pipe_is_refused_and_does_not_block(tools: Tools, workspace: Workspace) -> None:
    os.mkfifo(workspace.group / "pipe")
    assert "not a regular file" in await tools.refused("read_file", path="pipe")


async def test_what_is_not_there_or_a_folder_is_said(tools: Tools, workspace: Workspace) -> None:
    (workspace.group / "folder").mkdir()
    assert "there is no file nope" in await tools.refused("read_file", path="nope")
    assert "is a folder" in await tools.refused("read_file", path="folder")
    assert "is a folder" in await tools.refused("write_file", path="folder", content="x")
    assert "not a folder" in await tools.refused("list_files", path="nope")
    assert "NUL" in await tools.refused("read_file", path="a\0b")


async def test_listing_shows_sizes_folders_and_links_and_is_bounded(tools: Tools, workspace: Workspace) -> None:
    (workspace.group / "sub").mkdir()
    (workspace.group / "sub" / "x.md").write_text("abc")
    (workspace.group / "l").symlink_to("sub")
    assert await tools.ok("list_files") == "l -> sub\nsub/"
    assert await tools.ok("list_files", pattern="**/*.md") == "sub/x.md (3 bytes)"
    assert "must stay inside" in await tools.refused("list_files", pattern="../*")
    for number in range(600):
        (workspace.group / f"f{number}").touch()
    assert (await tools.ok("list_files", pattern="f*")).splitlines()[-1].startswith("[only the first 500")


async def test_grep_finds_lines_and_a_wrong_pattern_is_said(tools: Tools, workspace: Workspace) -> None:
    (workspace.group / "a.py").write_text("x = 1\ny = 22\n")
    (workspace.group / "b.txt").write_text("y = 3\n")
    hits = await tools.ok("grep", pattern=r"y = [0-9]+")
    assert sorted(hits.splitlines()) == ["./a.py:2:y = 22", "./b.txt:1:y = 3"]
    assert await tools.ok("grep", pattern="Y =", ignore_case=True, glob="*.txt") == "./b.txt:1:y = 3"
    assert await tools.ok("grep", pattern="--nope", path="a.py") == "[no hits]"
    assert "grep" in await tools.ok("grep", pattern="(")
