"""`microclaw bus …` on a mesh with traffic: what is shown is true, readable and, with --json, one JSON value."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mesh.harness import Mesh


async def test_what_the_bus_tells_is_true_and_nothing_is_swallowed(mesh: Mesh, tmp_path: Path) -> None:
    await mesh.answer("console:main", "what time is it")
    groups = [row["name"] for row in said(mesh, "bus", "sub", "info")]
    assert {"router", "queue", "sandbox", "console"} <= set(groups)
    assert [row["name"] for row in said(mesh, "bus", "ls", "console:")] == ["console:main"]
    samples = said(mesh, "bus", "metrics")
    assert samples["microclaw_bus_messages"] == said(mesh, "bus", "info")["messages"]
    backup = tmp_path / "copy.db"
    assert said(mesh, "bus", "backup", str(backup))["bytes"] == backup.stat().st_size
    assert set(said(mesh, "bus", "compact")) == {"journal_bytes", "journal_bytes_before"}
    assert said(mesh, "bus", "check") == {"ok": True, "findings": []}
    assert said(mesh, "bus", "dlq", "drop", "queue", "all") == {"group": "queue", "done": "drop", "count": 0}
    assert "0 dead letters of queue delivered again" in mesh.cli("bus", "dlq", "requeue", "queue", "all").stdout
    tail = mesh.cli("bus", "tail", "--kind", "message.received")
    assert "message.received console:main#1" in tail.stdout
    everything = lines(mesh, "bus", "replay", "console:main")
    assert lines(mesh, "bus", "replay", "console:main", "--last", "2") == everything[-2:]
    assert lines(mesh, "bus", "replay", "console:main", "--from", "2020-01-01") == everything

    for arguments, code, why in (
        (("tail", "--kind", "nosuch"), 0, "no message there is of this kind"),
        (("tail", "--from", "9" * 30), 2, "an offset, -N or a time"),
        (("ls", "nosuch"), 0, "no session begins with nosuch"),
        (("replay", "nosuch"), 2, "there is no session 'nosuch': `microclaw bus ls`"),
        (("replay", "console:main", "--after", "999"), 0, "its last seq is"),
        (("replay", "console:main", "--from", "2999-01-01"), 0, "has nothing after 2999-01-01"),
        (("replay", "console:main", "--from", "noon"), 2, "a time like 2026-11-23T12:00"),
        (("sub", "info", "nosuch"), 2, "there is no consumer group nosuch"),
        (("sub", "rm"), 2, "`microclaw bus sub info` shows them"),
        (("sub", "rm", "queue"), 1, "has consumers"),
        (("dlq", "requeue", "queue", "1"), 2, "no dead letter 1"),
        (("key", "rm"), 2, "`microclaw bus key ls` shows them"),
        (("pub", "t:x", "nosuch"), 2, "is no kind"),
        (("repair",), 2, "`microclaw down` first"),
        (("backup", str(backup)), 2, "name a new file"),
    ):
        ended = mesh.cli("bus", *arguments)
        assert ended.returncode == code, (arguments, ended)
        assert why in ended.stdout + ended.stderr, arguments
        assert len((ended.stdout + ended.stderr).splitlines()) == 1, arguments


def lines(mesh: Mesh, *arguments: str) -> list[object]:
    """What a command says with --json that says as many messages as there are: a JSON value a line."""
    ended = mesh.cli(*arguments, "--json")
    assert ended.returncode == 0, ended
    return [json.loads(line) for line in ended.stdout.splitlines()]


def said(mesh: Mesh, *arguments: str) -> object:
    """What the command says with --json, after its flags: one JSON value, and nothing else beside it."""
    ended = mesh.cli(*arguments, "--json")
    assert ended.returncode == 0, ended
    assert ended.stderr == "", ended
    return json.loads(ended.stdout)
