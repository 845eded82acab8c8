"""What agents may ask of the host, and whose messages count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.policy import (
    NOBODY,
    TASK_TOOLS,
    Allowed,
    Denied,
    judge_sender,
    may,
    read_sender_rules,
    visible_chats,
    visible_tasks,
)
from microclaw.core.requests import KnownChat, TaskRow
from microclaw.core.worker import HOST_TOOLS


def allowed(tool: str, viewer: str, target: str | None = None) -> bool:
    return isinstance(may(tool, viewer, viewer == "main", target=target), Allowed)


@pytest.mark.parametrize(("tool", "viewer", "target", "expected"), [
    ("send_message", "main", "fam", True), ("send_message", "main", None, True),
    ("send_message", "fam", "fam", True),
    ("send_message", "fam", "main", False), ("send_message", "fam", None, False),
    ("schedule_task", "main", "fam", True), ("schedule_task", "main", None, False),
    ("schedule_task", "fam", "fam", True), ("schedule_task", "fam", "main", False),
    ("schedule_task", "fam", None, False), ("register_group", "main", None, True),
    ("register_group", "fam", None, False), ("register_group", "fam", "fam", False),
    ("list_groups", "main", None, True), ("list_groups", "fam", None, False), ("refresh_groups", "fam", None, False),
    ("ask_user", "fam", "fam", True), ("ask_user", "main", "main", True), ("ask_user", "main", "fam", False),
    ("send_file", "main", None, True), ("send_file", "fam", "fam", True), ("send_file", "fam", "main", False),
    ("search_messages", "main", None, True), ("search_messages", "fam", "fam", True),
    ("search_messages", "fam", "main", False), ("search_messages", "fam", None, False),
    ("list_tasks", "fam", None, True), ("weird_type", "main", None, False), ("", "main", "main", False),
    *(
        (tool, viewer, target, expected)
        for tool in sorted(TASK_TOOLS)
        for viewer, target, expected in (
            ("main", "fam", True), ("fam", "fam", True), ("fam", "main", False), ("main", None, False),
        )
    ),
])
def test_matrix(tool: str, viewer: str, target: str | None, expected: bool) -> None:
    assert allowed(tool, viewer, target) is expected


def test_every_tool_of_the_host_has_a_rule() -> None:
    assert all(allowed(tool, "main", "main") for tool in HOST_TOOLS)


def test_a_task_of_others_and_one_that_is_not_there_are_denied_with_the_same_words() -> None:
    assert may("pause_task", "fam", False, target="main") == may("pause_task", "fam", False, target=None)


@given(st.text(), st.text(), st.none() | st.text())
def test_a_denial_is_one_line_and_no_group_reaches_another(tool: str, viewer: str, target: str | None) -> None:
    verdict = may(tool, viewer, False, target=target)
    if isinstance(verdict, Denied):
        assert verdict.reason.isprintable()
    else:
        assert tool == "list_tasks" or target == viewer


def task(number: int, group: str) -> TaskRow:
    return TaskRow(
        id=str(number), group=group, chat="a:1", prompt="p", schedule="once", value="v", timezone="UTC",
        context="group", status="active", next_run_ms=None,
    )


def test_a_group_sees_its_own_tasks_and_no_chats_main_sees_all() -> None:
    tasks = [task(1, "main"), task(2, "fam")]
    chats = [KnownChat(chat=f"a:{n}", name="n", last_message_ms=n, is_group=True, registered=False) for n in range(8)]
    assert [one.id for one in visible_tasks(tasks, "fam", False)] == ["2"]
    assert [one.id for one in visible_tasks(tasks, "main", True)] == ["1", "2"]
    assert visible_chats(chats, False) == [] and len(visible_chats(chats, True)) == 8


@pytest.mark.parametrize(("rules", "sender", "allowed", "stored"), [
    (None, "x", True, True),
    ('{"default": {"allow": "*"}}', "x", True, True),
    ('{"default": {"allow": [], "mode": "trigger"}}', "x", False, True),
    ('{"default": {"allow": ["a", "b"], "mode": "trigger"}}', "ab", False, True),
    ('{"default": {"allow": ["a"], "mode": "drop"}}', "z", False, False),
    ('{"default": {"allow": ["a"], "mode": "drop"}}', "a", True, True),
    ('{"default": {"allow": []}, "chats": {"g": {"allow": ["x"]}}}', "x", True, True),
    ('{"default": {"allow": "*"}, "chats": {"g": {"allow": [], "mode": "drop"}}}', "x", False, False),
])
def test_sender_rules(rules: str | None, sender: str, allowed: bool, stored: bool) -> None:
    read, problems = read_sender_rules(rules)
    assert problems == ()
    verdict = judge_sender(read, "g", sender)
    assert (verdict.allowed, verdict.stored) == (allowed, stored)


@pytest.mark.parametrize("raw", [
    "", "not JSON", "[]", "{}", '{"default": 5}', '{"default": {"allow": "x"}}', b"\xff\xfe",
    '{"default": {"allow": "*", "mode": "ignore"}}', '{"default": {"allow": "*"}, "chats": 1}',
])
def test_a_damaged_list_lets_nobody_trigger_and_the_owner_is_told(raw: str | bytes) -> None:
    rules, problems = read_sender_rules(raw)
    assert rules == NOBODY and len(problems) == 1
    assert judge_sender(rules, "g", "anybody").stored


def test_a_damaged_entry_is_skipped_and_told() -> None:
    rules, problems = read_sender_rules('{"default": {"allow": "*"}, "chats": {"g": {"allow": 5}, "h": {"allow": []}}}')
    assert set(rules.chats) == {"h"} and len(problems) == 1 and "g" in problems[0]
    assert judge_sender(rules, "g", "x").allowed
