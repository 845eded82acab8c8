"""Times in plain words: what they mean, and that nothing a person types breaks the reader."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.agent.local.moments import (
    Cron,
    Interval,
    MomentError,
    Once,
    read_when,
    say_amount,
    say_when,
    split_when,
)
from microclaw.core.schedule import first_run, parse_cron, parse_interval

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 14, 0, 0, tzinfo=BERLIN)  # a Monday


def at(*fields: int) -> Once:
    return Once(datetime(*fields, tzinfo=BERLIN))  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(("text", "when", "what"), [
    ("in 10 seconds to stretch", at(2026, 11, 23, 14, 0, 10), "to stretch"),
    ("in 10 seconds: stretch", at(2026, 11, 23, 14, 0, 10), ": stretch"),
    ("in an hour to rest", at(2026, 11, 23, 15), "to rest"),
    ("in half an hour to rest", at(2026, 11, 23, 14, 30), "to rest"),
    ("in an hour and a half to rest", at(2026, 11, 23, 15, 30), "to rest"),
    ("in 1h30m to rest", at(2026, 11, 23, 15, 30), "to rest"),
    ("in 2 hours and 30 minutes to rest", at(2026, 11, 23, 16, 30), "to rest"),
    ("to rest in 2 hours, 5 minutes", at(2026, 11, 23, 16, 5), "to rest"),
    ("in twenty minutes to rest", at(2026, 11, 23, 14, 20), "to rest"),
    ("in 3 days to rest", at(2026, 11, 26, 14), "to rest"),
    ("in a week to rest", at(2026, 11, 30, 14), "to rest"),
    ("tomorrow at 9 to call mum", at(2026, 11, 24, 9), "to call mum"),
    ("to call mum tomorrow at 9", at(2026, 11, 24, 9), "to call mum"),
    ("to call mum at 9 tomorrow.", at(2026, 11, 24, 9), "to call mum"),
    ("tomorrow to call mum", at(2026, 11, 24, 9), "to call mum"),
    ("tomorrow evening to call mum", at(2026, 11, 24, 19), "to call mum"),
    ("the day after tomorrow at noon to eat", at(2026, 11, 25, 12), "to eat"),
    ("tonight to sleep", at(2026, 11, 23, 20), "to sleep"),
    ("at 17:45 to go home", at(2026, 11, 23, 17, 45), "to go home"),
    ("at 5:45 pm to go home", at(2026, 11, 23, 17, 45), "to go home"),
    ("at 5pm to go home", at(2026, 11, 23, 17), "to go home"),
    ("at 12am to sleep", at(2026, 11, 24, 0), "to sleep"),
    ("at 12pm to eat", at(2026, 11, 24, 12), "to eat"),
    ("at 9 to run", at(2026, 11, 24, 9), "to run"),
    ("at 8 o'clock to run", at(2026, 11, 24, 8), "to run"),
    ("on friday at 5pm that the report is due", at(2026, 11, 27, 17), "that the report is due"),
    ("on monday at 15:00 to meet", at(2026, 11, 23, 15), "to meet"),
    ("on monday at 9 to meet", at(2026, 11, 30, 9), "to meet"),
    ("on 24 December at 18:00 to sing", at(2026, 12, 24, 18), "to sing"),
    ("on January 6th to rest", at(2027, 1, 6, 9), "to rest"),
    ("on the 1st of march 2028 at 7 to march", at(2028, 3, 1, 7), "to march"),
    ("on 29 february at 7 to leap", at(2028, 2, 29, 7), "to leap"),
    ("2026-12-24 18:00 sing", at(2026, 12, 24, 18), "sing"),
    ("every 20 minutes to drink", Interval(1200), "to drink"),
    ("every hour to drink", Interval(3600), "to drink"),
    ("to drink every 30 seconds", Interval(30), "to drink"),
    ("every day at 7 to rise", Cron(0, 7), "to rise"),
    ("daily at 7 to rise", Cron(0, 7), "to rise"),
    ("every morning to rise", Cron(0, 9), "to rise"),
    ("at 7:15 every day to rise", Cron(15, 7), "to rise"),
    ("every weekday at 8:30 to stand up", Cron(30, 8, day_of_week="1-5", days="every weekday"), "to stand up"),
    ("every sunday at 10 to rest", Cron(0, 10, day_of_week="0", days="every Sunday"), "to rest"),
    ("every monday and thursday at 7pm to take out the bins",
     Cron(0, 19, day_of_week="1,4", days="every Monday and Thursday"), "to take out the bins"),
    ("on tuesdays at 8 to swim", Cron(0, 8, day_of_week="2", days="every Tuesday"), "to swim"),
    ("every month on the 1st at 9 to pay", Cron(0, 9, day_of_month="1", days="every month on day 1"), "to pay"),
])
def test_it_is_understood(text: str, when: object, what: str) -> None:
    assert split_when(text, NOW) == (when, what)


@pytest.mark.parametrize("text", [
    "to stretch", "to buy 2 apples", "to read 1984", "to be in", "at", "in", "every", "in love", "every now and then",
    "in 5", "at home to rest", "to call 555 1234", "to say something in a minute or two or so", "daylight",
])
def test_what_is_no_time_is_not_taken_for_one(text: str) -> None:
    assert split_when(text, NOW) is None


@pytest.mark.parametrize(("text", "why"), [
    ("at 25:00 to x", "not a time"), ("at 13pm to x", "not a time"), ("today at 9 to x", "past already"),
    ("on 31 february to x", "calendar"), ("2026-02-30 10:00 x", "calendar"), ("2020-01-01 10:00 x", "past"),
    ("in 99999 weeks to x", "ten years"), ("in 0 seconds to x", "less than a second"),
    ("every 0 minutes to x", "too short"),
])
def test_what_can_not_be_says_why(text: str, why: str) -> None:
    with pytest.raises(MomentError, match=why):
        split_when(text, NOW)


def test_hours_are_real_time_and_days_are_wall_clock_over_a_change_of_the_clocks() -> None:
    before = datetime(2026, 10, 24, 14, 0, tzinfo=BERLIN)  # the clocks go back in the night after
    day, _ = split_when("in 1 day", before) or (None, "")
    assert isinstance(day, Once) and (day.at.day, day.at.hour) == (25, 14)
    hours, _ = split_when("in 23 hours", before) or (None, "")
    assert isinstance(hours, Once) and hours.at.astimezone(UTC) - before.astimezone(UTC) == timedelta(hours=23)
    assert hours.at.hour == 12


def test_a_skipped_hour_is_as_much_later_as_the_gap_is_long() -> None:
    before = datetime(2027, 3, 27, 14, 0, tzinfo=BERLIN)
    when, _ = split_when("tomorrow at 2:30", before) or (None, "")
    assert isinstance(when, Once)
    assert f"{when.at:%H:%M %z}" == "03:30 +0200"


@given(text=st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        found = split_when(text, NOW)
    except MomentError:
        return
    if found is not None and isinstance(found[0], Once):
        assert found[0].at > NOW


WORDS = (
    "in", "at", "every", "on", "10", "9:30", "a", "half", "hour", "minutes", "and", "monday", "tomorrow", "pm", "2026",
    "the", "1st", "march", "daily", "day", "to", "noon", ",", "weekdays", "week", "for", "next",
)


@given(words=st.lists(st.sampled_from(WORDS), max_size=8), minute=st.integers(0, 60 * 24 * 400))
def test_whatever_is_understood_is_in_the_future_and_the_scheduler_takes_it(words: list[str], minute: int) -> None:
    now = (NOW.astimezone(UTC) + timedelta(minutes=minute)).astimezone(BERLIN)
    try:
        found = read_when(" ".join(words), now)
    except MomentError:
        return
    if found is None:
        return
    when, end = found
    assert 0 < end <= len(" ".join(words))
    assert say_when(when, now)
    match when:
        case Once():
            assert when.at > now
            value = when.at.isoformat(timespec="milliseconds")
            assert first_run("once", value, BERLIN, 0) == when.at.timestamp() * 1000
        case Interval():
            assert parse_interval(str(when.seconds * 1000)) == when.seconds * 1000
        case Cron():
            assert parse_cron(when.fields).next_after(int(now.timestamp() * 1000), BERLIN) is not None


@given(seconds=st.integers(1, 10**7))
def test_an_interval_is_said_as_it_is_understood(seconds: int) -> None:
    said = f"every {say_amount(seconds)}"
    assert read_when(said, NOW) == (Interval(seconds), len(said))


@given(minutes=st.integers(10 * 60, 400 * 24 * 60))
def test_a_date_and_time_is_that_date_and_time(minutes: int) -> None:
    wall = NOW.replace(tzinfo=None) + timedelta(minutes=minutes)
    when = (read_when(f"{wall:%Y-%m-%d} at {wall:%H:%M}", NOW) or (None,))[0]
    assert isinstance(when, Once)
    real = wall.replace(tzinfo=BERLIN).astimezone(UTC).astimezone(BERLIN)
    assert when.at == real
