"""When tasks are due: the rows people rely on, and APScheduler fenced in against a walker that tries every minute."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.core import schedule
from microclaw.core.schedule import (
    ScheduleError,
    first_run,
    next_run,
    not_too_far,
    parse_cron,
    parse_interval,
    parse_once,
    plan,
)

NEW_YORK = ZoneInfo("America/New_York")
BERLIN = ZoneInfo("Europe/Berlin")
UTC_ZONE = ZoneInfo("UTC")
MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def iso(moment: int | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("expression", "zone", "now", "due"), [
    ("0 9 * * *", "UTC", "2026-02-12T12:00:00Z", "2026-02-13T09:00:00Z"),
    ("0 9 * * *", "America/New_York", "2026-02-12T12:00:00Z", "2026-02-12T14:00:00Z"),
    ("0 9 * * 1", "Europe/Berlin", "2026-02-12T12:00:00Z", "2026-02-16T08:00:00Z"),
    ("0 9 * * MON", "Europe/Berlin", "2026-02-12T12:00:00Z", "2026-02-16T08:00:00Z"),
    ("0 9 * * 7", "UTC", "2026-02-12T12:00:00Z", "2026-02-15T09:00:00Z"),
    ("0 9 * * 0", "UTC", "2026-02-12T12:00:00Z", "2026-02-15T09:00:00Z"),
    ("0 9 * * 5-7", "UTC", "2026-02-14T12:00:00Z", "2026-02-15T09:00:00Z"),
    ("0 9-17/4 * * *", "Asia/Kolkata", "2026-02-12T12:00:00Z", "2026-02-13T03:30:00Z"),
    ("0 9 13 * 5", "UTC", "2026-02-12T12:00:00Z", "2026-02-13T09:00:00Z"),
    ("0 9 13 * 5", "UTC", "2026-02-13T12:00:00Z", "2026-02-20T09:00:00Z"),
    ("*/15 * * * *", "UTC", "2026-02-12T12:00:01Z", "2026-02-12T12:15:00Z"),
    ("5/20 * * * *", "UTC", "2026-02-12T12:06:00Z", "2026-02-12T12:25:00Z"),
    ("0 0 29 2 *", "UTC", "2026-02-12T12:00:00Z", "2028-02-29T00:00:00Z"),
    ("0 12 * jan,Dec *", "UTC", "2026-02-12T12:00:00Z", "2026-12-01T12:00:00Z"),
    ("@hourly", "UTC", "2026-02-12T12:00:00Z", "2026-02-12T13:00:00Z"),
    ("30 2 * * *", "America/New_York", "2026-03-08T05:00:00Z", "2026-03-08T07:30:00Z"),
    ("30 1 * * *", "America/New_York", "2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z"),
    ("30 1 * * *", "America/New_York", "2026-11-01T05:31:00Z", "2026-11-02T06:30:00Z"),
    ("30 1 * * *", "America/New_York", "2026-11-01T06:10:00Z", "2026-11-02T06:30:00Z"),
    ("0 9 * * *", "UTC", "2026-02-12T09:00:00Z", "2026-02-13T09:00:00Z"),
    # Every hour is real time: both passes of the repeated hour, none of the skipped one.
    ("30 * * * *", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
    ("30 * * * *", "America/New_York", "2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z"),
    # Lord Howe's clock moves by half an hour; Samoa left a day out.
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-03T15:45:00Z"),
    ("0 12 30 12 *", "Pacific/Apia", "2011-12-30T09:00:00Z", "2011-12-30T22:00:00Z"),
])
def test_cron_is_due_when_people_expect_it(expression: str, zone: str, now: str, due: str) -> None:
    assert iso(first_run("cron", expression, ZoneInfo(zone), ms(now))) == due


@pytest.mark.parametrize("expression", [
    "", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8", "* * * *", "* * * * * *",
    "30 0 9 * * *", "0 9 L * *", "0 9 * * 1#2", "0 9 15W * *", "? * * * *", "*/0 * * * *", "*/-5 * * * *",
    "5-1 * * * *", "a b c d e", "1,,2 * * * *", ", * * * *", "0 9 31 2 *", "0 9 30 feb *", "0 9 31 4,6 *", "@never",
    "0 9 * * mond", "1.5 * * * *", "٣ * * * *", "*" * 300, "1-2-3 * * * *", "1/2/3 * * * *", "/5 * * * *",
])
def test_cron_that_is_no_plain_cron_is_refused(expression: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        first_run("cron", expression, UTC_ZONE, 0)
    assert "\n" not in str(refused.value)


def test_a_day_that_exists_only_by_its_weekday_is_not_impossible() -> None:
    assert iso(first_run("cron", "0 9 31 2 5", UTC_ZONE, ms("2026-01-30T12:00:00Z"))) == "2026-02-06T09:00:00Z"


@pytest.mark.parametrize(("value", "due"), [
    ("2025-06-01T00:00:00.000Z", "2025-06-01T00:00:00Z"),
    ("2026-02-01T15:30:00", "2026-02-01T20:30:00Z"),
    ("2026-02-01T15:30", "2026-02-01T20:30:00Z"),
    ("2026-02-01 15:30:00", "2026-02-01T20:30:00Z"),
    ("  2026-02-01T15:30:00+02:00 ", "2026-02-01T13:30:00Z"),
    ("2026-02-01", "2026-02-01T05:00:00Z"),
    ("2026-02-01t15:30:00z", "2026-02-01T15:30:00Z"),
    ("2026-02-28T24:00", "2026-03-01T05:00:00Z"),
    ("2026-02-28T24:00:00.000Z", "2026-03-01T00:00:00Z"),
    ("2026-03-08T02:30:00", "2026-03-08T07:30:00Z"),
    ("2026-11-01T01:30:00", "2026-11-01T05:30:00Z"),
    ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
])
def test_once_is_local_time_unless_it_says_otherwise(value: str, due: str) -> None:
    assert iso(first_run("once", value, NEW_YORK, ms("2026-01-01T00:00:00Z"))) == due


@pytest.mark.parametrize("value", [
    "", "tomorrow", "2026-02-30T10:00:00", "2025-02-29T10:00:00", "1770000000000", "1770010100000",
    "2026-13-01T00:00:00",
    "2026-02-01T24:30:00", "2026-02-01T24:00:01", "2026-02-01T24:00:00.001Z", "9999-12-31T24:00:00",
    "2026-02-01T10:61:00", "2026-02-01T10:00:00+99:00", "Feb 1 2026 15:30", "20260201T153000",
    "2026-W05-1", "1969-01-01T00:00:00", "2026-02-01T10", "0001-01-01T00:00:00+05:00", "٢٠٢٦-02-01T10:00:00",
])
def test_once_that_is_no_real_time_is_refused(value: str) -> None:
    with pytest.raises(ScheduleError):
        first_run("once", value, NEW_YORK, 0)


@pytest.mark.parametrize(("value", "every"), [("1", 1), (" 5000 ", 5000), ("60000", 60_000), ("0005000", 5000)])
def test_interval_is_whole_milliseconds(value: str, every: int) -> None:
    assert parse_interval(value) == every
    assert first_run("interval", value, UTC_ZONE, 1_000) == 1_000 + every


@pytest.mark.parametrize("value", [
    "0", "00", "-5", "", " ", "1e3", "5.5", "5000ms", "0x10", "99999999999999999999", "9" * 5000, "+5", "٥", "NaN",
    "1_000",
])
def test_interval_that_is_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(ScheduleError):
        parse_interval(value)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ScheduleError, match="weekly"):
        first_run("weekly", "x", UTC_ZONE, 0)
    with pytest.raises(ScheduleError, match="weekly"):
        next_run("weekly", "x", UTC_ZONE, 0, 0)


def test_an_unknown_zone_is_refused() -> None:
    for name in ("Mars/Olympus", "", "../etc/passwd", "Europe"):
        with pytest.raises(ScheduleError):
            schedule.zone_named(name)


def test_an_interval_stays_on_its_grid() -> None:
    due, now = ms("2026-02-12T12:00:00Z"), ms("2026-02-12T12:00:02Z")
    assert iso(next_run("interval", "60000", UTC_ZONE, due, now)) == "2026-02-12T12:01:00Z"


def test_missed_intervals_are_left_out_at_once() -> None:
    due, now = ms("1990-02-12T11:50:00Z"), ms("2026-02-12T12:00:00Z")
    began = time.perf_counter()
    following = next_run("interval", "1", UTC_ZONE, due, now)
    assert following is not None
    assert following > now
    assert plan("interval", "1", UTC_ZONE, due, now, "all").fires[-1] == now
    assert time.perf_counter() - began < 0.5


@given(
    every=st.integers(1, 3_000) | st.integers(1, 10**9), due=st.integers(0, 10**13), late=st.integers(-10**9, 10**12)
)
def test_the_next_grid_point_is_the_first_one_that_may_be(every: int, due: int, late: int) -> None:
    now = due + late
    following = next_run("interval", str(every), UTC_ZONE, due, now)
    assert following is not None
    assert (following - due) % every == 0
    gap = following - max(now, due)
    assert gap >= (schedule.FIRE_GAP_MS_MIN if every < schedule.FIRE_GAP_MS_MIN else 1)
    assert gap <= max(every, schedule.FIRE_GAP_MS_MIN + every)


@pytest.mark.parametrize("damaged", ["0", "-1", "abc", ""])
def test_a_damaged_interval_does_not_loop(damaged: str) -> None:
    assert next_run("interval", damaged, UTC_ZONE, 5_000, 10_000) == 70_000
    assert plan("interval", damaged, UTC_ZONE, 5_000, 10_000) == schedule.Plan((5_000,), 70_000)


def test_a_once_has_no_next_run_and_runs_late() -> None:
    assert next_run("once", "2026-02-01T15:30:00", UTC_ZONE, 1, 2) is None
    assert plan("once", "2026-02-01T15:30:00", UTC_ZONE, 1, 10**12, "skip") == schedule.Plan((1,), None)


def test_missed_times_are_caught_up_as_the_task_says() -> None:
    due, now = ms("2026-02-01T09:00:00Z"), ms("2026-02-05T10:00:00Z")
    days = [ms(f"2026-02-0{day}T09:00:00Z") for day in range(1, 7)]
    assert plan("cron", "0 9 * * *", UTC_ZONE, due, now, "latest") == schedule.Plan((days[4],), days[5])
    assert plan("cron", "0 9 * * *", UTC_ZONE, due, now, "all") == schedule.Plan(tuple(days[:5]), days[5])
    assert plan("cron", "0 9 * * *", UTC_ZONE, due, now, "skip") == schedule.Plan((), days[5])
    just_now = days[4] + 50
    assert plan("cron", "0 9 * * *", UTC_ZONE, due, just_now, "skip") == schedule.Plan((days[4],), days[5])


def test_catching_up_all_is_bounded_to_the_newest() -> None:
    due, now = ms("2020-02-01T09:00:00Z"), ms("2026-02-05T10:00:00Z")
    began = time.perf_counter()
    fires = plan("cron", "* * * * *", BERLIN, due, now, "all").fires
    assert len(fires) == schedule.CATCH_UP_FIRES_MAX
    assert fires[-1] == now
    assert fires == tuple(range(now - 99 * MINUTE_MS, now + 1, MINUTE_MS))
    assert plan("cron", "0 0 29 2 *", BERLIN, due, now).fires == (ms("2024-02-28T23:00:00Z"),)
    assert time.perf_counter() - began < 2


# --- against a walker that tries every minute ---------------------------------------------------------------------

def field(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    span = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    part = st.one_of(value.map(str), span, st.tuples(span, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}"))
    return st.one_of(
        st.just("*"), st.integers(1, 20).map(lambda step: f"*/{step}"),
        st.lists(part, min_size=1, max_size=3).map(",".join),
    )


def walked(text: str, low: int, high: int) -> set[int]:
    """The numbers a field means, in the plainest way."""
    found = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        bounds = (low, high) if span == "*" else tuple(int(end) for end in (span.split("-") * 2)[:2])
        found |= {value for value in range(low, high + 1)
                  if bounds[0] <= value <= bounds[1] and (value - bounds[0]) % int(step or 1) == 0}
    return found


def walk(fields: list[str], zone: ZoneInfo, after: datetime, days: int) -> datetime | None:
    """The first minute after `after` that matches, tried one by one."""
    minutes, hours = walked(fields[0], 0, 59), walked(fields[1], 0, 23)
    in_month, months = walked(fields[2], 1, 31), walked(fields[3], 1, 12)
    in_week = {day % 7 for day in walked(fields[4], 0, 7)}

    def day_matches(wall: datetime) -> bool:
        by_month, by_week = wall.day in in_month, wall.isoweekday() % 7 in in_week
        both = fields[2] != "*" and fields[4] != "*"
        return wall.month in months and ((by_month or by_week) if both else (by_month and by_week))

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and day_matches(wall)

    if len(hours) == 24:
        moment = after.replace(second=0) + timedelta(minutes=1)
        for _ in range(days * 1440):
            if matches(moment.astimezone(zone)):
                return moment
            moment += timedelta(minutes=1)
        return None
    wall = after.astimezone(zone).replace(tzinfo=None, second=0) - timedelta(days=1, hours=3)
    found = []
    for _ in range((days + 2) * 1440):
        if matches(wall):
            moment = wall.replace(tzinfo=zone).astimezone(UTC)
            if after < moment <= after + timedelta(days=days):
                found.append(moment)
        wall += timedelta(minutes=1)
    return min(found, default=None)


@given(
    schedule=st.one_of(
        st.integers(1, 90_000).map(lambda every: ("interval", str(every))),
        st.sampled_from([("cron", "*/7 * * * *"), ("cron", "0 9 * * 1"), ("cron", "30 2 * * *")]),
    ),
    due=st.integers(0, 10**7).map(lambda after: ms("2026-03-29T00:00:00Z") + after), late=st.integers(0, 200_000),
    ahead=st.integers(1, 400) | st.integers(10**6, 10**9),
)
def test_a_next_time_is_sooner_only_after_the_clock_was_set_back_and_then_as_any_other(
    schedule: tuple[str, str], due: int, late: int, ahead: int
) -> None:
    kind, value = schedule
    now = due + late
    following = next_run(kind, value, BERLIN, due, now)
    assert following is not None
    for moment in range(now, following, max(1, (following - now) // 5)):
        assert not_too_far(kind, value, BERLIN, following, moment) == following
    back = now - ahead * 1_000
    sooner = not_too_far(kind, value, BERLIN, following, back)
    assert back < sooner <= following
    if kind == "interval":
        assert (following - sooner) % int(value) == 0 and sooner <= back + int(value) + 1_000
    else:
        assert sooner == min(following, first_run(kind, value, BERLIN, back))


#: Days around which clocks change, somewhere.
EDGES = ("2026-03-08", "2026-11-01", "2026-03-29", "2026-10-25", "2026-04-05", "2026-10-04", "2026-02-28", "2027-12-31")


@settings(max_examples=120)
@given(
    fields=st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)).map(list),
    plain_days=st.booleans(),
    zone=st.sampled_from(
        ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/Havana"]
    ),
    edge=st.sampled_from(EDGES), shift_s=st.integers(-30 * 3600, 30 * 3600),
)
def test_cron_agrees_with_trying_every_minute(
    fields: list[str], plain_days: bool, zone: str, edge: str, shift_s: int
) -> None:
    if plain_days:
        fields[2:] = ["*", "*", "*"]
    after = datetime.fromisoformat(edge).replace(tzinfo=UTC) + timedelta(seconds=shift_s)
    days = 3
    try:
        got = parse_cron(" ".join(fields)).next_after(int(after.timestamp()) * 1000, ZoneInfo(zone))
    except ScheduleError:
        # Only days that never come are refused: April has no 31st.
        assert walk(fields, ZoneInfo(zone), after, days) is None
        return
    expected = walk(fields, ZoneInfo(zone), after, days)
    if expected is None:
        assert got is None or got > (after + timedelta(days=days)).timestamp() * 1000
    else:
        assert got == int(expected.timestamp()) * 1000


@settings(max_examples=60)
@given(
    expression=st.sampled_from(["30 1 * * *", "30 2 * * *", "*/20 * * * *", "0,30 1-3 * * *", "0 0 * * *"]),
    zone=st.sampled_from(["America/New_York", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe"]),
    edge=st.sampled_from(EDGES),
)
def test_following_a_schedule_never_stands_still_nor_goes_back(expression: str, zone: str, edge: str) -> None:
    moment = ms(edge + "T00:00:00Z") - 2 * 86_400_000
    for _ in range(100):
        following = next_run("cron", expression, ZoneInfo(zone), moment, moment)
        assert following is not None
        assert following > moment
        moment = following


def test_once_parses_any_fraction() -> None:
    assert parse_once("2026-02-01T00:00:00.5Z", UTC_ZONE) - parse_once("2026-02-01T00:00:00Z", UTC_ZONE) == 500
