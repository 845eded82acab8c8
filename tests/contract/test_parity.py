"""Every row of the behaviour contract, where the file lies beside the checkout; and that the runner sees faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.contract import run
from tests.contract.rows import Verdict, judge, read

OWN_FILES = sorted(Path(__file__).parent.glob("own_rows*.json"))
FILE = Path(__file__).parents[3] / "shared" / "contract" / "nanoclaw.json"


def rows() -> list[Any]:
    if not FILE.exists():
        reason = f"the contract's file is not beside the checkout ({FILE.parent.name}/{FILE.name})"
        return [pytest.param({}, {}, marks=pytest.mark.skip(reason=reason), id="all")]
    meta, found = read(FILE)
    return [pytest.param(row, meta, id=row["id"]) for row in found if row["parity"] in ("keep", "harden")]


@pytest.mark.parametrize(("row", "meta"), rows())
def test_we_do_as_the_row_says(row: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    judged = judge(row, meta)
    assert judged.verdict is Verdict.PASSED, judged.why


@pytest.mark.parametrize(("row", "meta"), [
    pytest.param(row, meta, id=row["id"]) for meta, rows in map(read, OWN_FILES) for row in rows
])
def test_the_adapters_know_more_than_the_rows_they_were_written_for(
    row: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    judged = judge(row, meta)
    assert judged.verdict is Verdict.PASSED, judged.why


def row(area: str, given: Mapping[str, Any], then: Mapping[str, Any], parity: str = "keep") -> dict[str, Any]:
    return {"id": "x", "area": area, "parity": parity, "given": given, "when": "it happens", "then": then}


@pytest.mark.parametrize(("wrong", "verdict"), [
    (row("escape", {"text": "<"}, {"text": "&lt;"}), Verdict.PASSED),
    (row("escape", {"text": "<"}, {"text": "<"}), Verdict.FAILED),
    (row("trigger", {"assistant_name": "A", "text": "@A"}, {"matches": 1}), Verdict.FAILED),
    (row("escape", {"text": "<", "mode": "odd"}, {"text": "&lt;"}), Verdict.UNMAPPED),
    (row("escape", {"text": "<"}, {"length": 1}), Verdict.UNMAPPED),
    (row("nonsense", {}, {}), Verdict.UNMAPPED),
    (row("prompt_format", {"messages": [{"content": "x", "mood": "y"}]}, {"prompt": ""}), Verdict.UNMAPPED),
    (row("visibility", {"tasks": [{"id": 1, "folder": "m", "x": 1}], "viewer": "m"}, {"ids": [1]}), Verdict.UNMAPPED),
    (row("agent_run", {"container": "sings"}, {"sent": []}), Verdict.UNMAPPED),
    (row("ipc_files", {"file": "1.json", "content": "a song of ice"}, {"handled": False}), Verdict.UNMAPPED),
    (row("channel", {"disconnect": "logged out"}, {"keys": 1}), Verdict.UNMAPPED),
    (row("escape", {"text": 7}, {"text": "7"}), Verdict.FAILED),
])
def test_a_row_passes_only_if_it_holds(wrong: Mapping[str, Any], verdict: Verdict) -> None:
    assert judge(wrong, {}).verdict is verdict


@pytest.mark.parametrize(("parity", "code"), [("keep", 1), ("harden", 1), ("optional", 0), ("later", 0)])
def test_rows_that_bind_decide_the_exit_code(
    parity: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [
        row("escape", {"text": "a"}, {"text": "a"}), row("escape", {"text": "a"}, {"text": "b"}, parity),
        row("nonsense", {}, {}, parity),
    ]}))
    assert run.main([str(file)]) == code
    table = capsys.readouterr().out
    assert "escape" in table and "nonsense" in table
