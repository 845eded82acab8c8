"""When the heartbeat looks, what counts as nothing to do, and what as nothing to say."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from microclaw.core.errors import UsageError
from microclaw.core.heartbeat import active_hours, is_idle, worth_saying
from microclaw.core.settings import parse

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("content", [
    "", "\n\n  \n", "# Heartbeat\n", "# Heartbeat\n\n## Mornings\n- \n- [ ]\n* \n1. \n", "<!-- nothing\nyet -->\n",
    "---\n", "# Notes\n<!-- never closed\ncheck mail",
])
def test_a_file_that_asks_for_nothing_is_idle(content: str) -> None:
    assert is_idle(content)


@pytest.mark.parametrize("content", [
    "check mail", "# Heartbeat\n- check mail", "- [ ] call mum", "- [x] done", "<!-- a --> look\n", "1. look", "-5",
])
def test_a_file_that_asks_for_something_is_not(content: str) -> None:
    assert not is_idle(content)


@pytest.mark.parametrize(("answer", "said"), [
    ("HEARTBEAT_OK", ""), ("  HEARTBEAT_OK.\n", ""), ("**HEARTBEAT_OK**", ""), ("`HEARTBEAT_OK`", ""),
    ("All quiet. HEARTBEAT_OK", ""), ("HEARTBEAT_OK – nothing to report", ""),
    ("Your mother called.", "Your mother called."), ("", ""),
    ("HEARTBEAT_OKAY", "HEARTBEAT_OKAY"),
])
def test_an_answer_that_all_is_well_is_dropped(answer: str, said: str) -> None:
    assert worth_saying(answer) == said


def test_news_beside_the_word_is_said_without_it() -> None:
    news = "The server has been down since nine, the backup failed twice, and somebody should look at both today."
    assert worth_saying(f"HEARTBEAT_OK\n{news}") == news


@pytest.mark.parametrize(("hours", "clock", "holds"), [
    ("", "03:00", True), ("08:00-22:00", "08:00", True), ("08:00-22:00", "21:59", True),
    ("08:00-22:00", "22:00", False), ("08:00-22:00", "07:59", False), ("22:00-06:00", "23:30", True),
    ("22:00-06:00", "05:59", True), ("22:00-06:00", "12:00", False), ("8:00 - 24:00", "23:59", True),
    ("00:00-24:00", "12:00", True),
])
def test_active_hours_are_the_owners_wall_clock(hours: str, clock: str, holds: bool) -> None:
    moment = datetime.fromisoformat(f"2026-07-01T{clock}:00").replace(tzinfo=BERLIN)
    assert active_hours(hours).hold(int(moment.timestamp() * 1000), BERLIN) is holds


@pytest.mark.parametrize("text", ["8-22", "08:00", "25:00-26:00", "08:60-09:00", "08:00-22:00 daily", "24:01-03:00"])
def test_other_spans_are_refused_with_the_place_in_the_configuration(text: str) -> None:
    with pytest.raises(UsageError):
        active_hours(text)
    with pytest.raises(UsageError, match=r"heartbeat.active_hours"):
        parse(f'[heartbeat]\nactive_hours = "{text}"\n', {})
