"""What a task's script says."""

from __future__ import annotations

import pytest

from microclaw.core.check import DATA_CHARS_MAX, Checked, CheckError, read_check, with_data


@pytest.mark.parametrize(("output", "expected"), [
    ('{"wakeAgent": false}', Checked(False)),
    ('{"wakeAgent": true}', Checked(True)),
    ('looking…\n{"wakeAgent": true, "data": {"new": [1, 2]}}\n', Checked(True, '{"new":[1,2]}')),
    ('{"wakeAgent": true}\nsome warning at the end\n', Checked(True)),
    ('{"wakeAgent": true}\n{"wakeAgent": false, "data": 3}', Checked(False, "3")),
    ('{"wakeAgent": true, "data": null}', Checked(True)),
    ('  {"wakeAgent": false}  ', Checked(False)),
])
def test_the_last_line_that_decides_counts(output: str, expected: Checked) -> None:
    assert read_check(output) == expected


@pytest.mark.parametrize("output", [
    "", "false", "[]", "{}", '{"wakeAgent": "false"}', '{"wakeAgent": 0}', '{"wakeagent": false}', "[" * 100_000,
    '{"wakeAgent": true', '{"data": 1}',
])
def test_a_script_that_does_not_decide_is_an_error_and_no_decision(output: str) -> None:
    with pytest.raises(CheckError, match="wakeAgent"):
        read_check(output)


def test_data_have_a_bound_and_stand_below_the_prompt() -> None:
    with pytest.raises(CheckError, match="characters"):
        read_check(f'{{"wakeAgent": true, "data": "{"x" * DATA_CHARS_MAX}"}}')
    assert with_data("look at it", Checked(True)) == "look at it"
    assert with_data("look at it", Checked(True, "[1]")).startswith("look at it\n")
    assert with_data("look at it", Checked(True, "[1]")).endswith("\n[1]")
