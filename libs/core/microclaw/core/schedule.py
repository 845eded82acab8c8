"""When a task is due: `once`, `interval` and `cron`, checked when a task is made and reckoned after each fire.

Cron fields are matched by APScheduler's `CronTrigger`, deliberately fenced in: it numbers weekdays from Monday, joins
the two day fields with AND, and moves by its own rules over a change of the clocks. So we read the five fields
ourselves, hand it plain lists on a *wall clock* (local time without a zone), one trigger for each of the two day fields
where both are given, and map the wall clock to real time ourselves:

- hours given (`30 2 * * *`): a time that a change of the clocks skips runs as much later as the gap is long, a repeated
  one runs the first time only;
- every hour (`*/15 * * * *`): real time counts, so a repeated hour is served twice and a skipped one not at all.

All instants are Unix milliseconds. Nothing here reads the clock.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

from microclaw.core.errors import UsageError

#: Longest interval: ten years. Longer ones are typing errors.
INTERVAL_MS_MAX = 10 * 365 * 24 * 3600 * 1000
#: A task is not fired more often than this, however short its interval: it keeps its grid and leaves points out.
FIRE_GAP_MS_MIN = 1_000
#: Pause after which a damaged interval (changed by hand to 0 or to no number) is looked at again.
DAMAGED_RETRY_MS = 60_000
#: With `CatchUp.ALL`, so many missed times are made up at most, the newest ones.
CATCH_UP_FIRES_MAX = 100
#: Longest schedule text, in characters.
VALUE_CHARS_MAX = 256

_MINUTE = timedelta(minutes=1)
#: No zone changes its clock twice within this.
_ZONE_STEP = timedelta(hours=12)
#: The widest change of a clock that there was is a whole day (Samoa, 2011).
_GAP_MAX = timedelta(hours=26)

_ONCE = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?\s?([Zz]|[+-]\d{2}:?\d{2})?)?\Z", re.ASCII
)
#: ISO's other name for the midnight at a day's end.
_DAYS_END = re.compile(r"24:00(?::00)?\Z")
_MACROS = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_LONGEST_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class ScheduleError(UsageError):
    """The schedule cannot be understood."""


class Schedule(StrEnum):
    """How a task repeats."""

    #: One time, an ISO date and time.
    ONCE = "once"
    #: Every so many milliseconds, from the moment it was made.
    INTERVAL = "interval"
    #: Five-field cron in the owner's zone.
    CRON = "cron"


class CatchUp(StrEnum):
    """What becomes of due times that passed while nobody could fire. `once` always runs late."""

    #: One run, for the latest of them.
    LATEST = "latest"
    #: None of them.
    SKIP = "skip"
    #: All, at most `CATCH_UP_FIRES_MAX`.
    ALL = "all"


#: A due time is *missed* (and the policy asked) when it passed so long ago, in ms; before that it is just being fired.
MISSED_AFTER_MS = 60_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a task that is due."""

    #: Due times to fire now, rising.
    fires: tuple[int, ...]
    #: When it is due again; None = never.
    next_run_ms: int | None


def zone_named(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    :raises ScheduleError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(f"{name!r} is not a time zone: use an IANA name such as Europe/Berlin") from error


def first_run(schedule: str, value: str, zone: ZoneInfo, now_ms: int) -> int:
    """When a task made at `now_ms` is due first. A `once` in the past is due at once.

    :raises ScheduleError: unknown schedule, or a value it can't have.
    """
    if schedule == Schedule.ONCE:
        return parse_once(value, zone)
    if schedule == Schedule.INTERVAL:
        return now_ms + parse_interval(value)
    if schedule == Schedule.CRON:
        due = parse_cron(value).next_after(now_ms, zone)
        if due is None:
            raise ScheduleError(f"cron {value!r} never comes: name a day that exists")
        return due
    raise ScheduleError(f"schedule {schedule!r} is unknown: use once, interval or cron")


def next_run(schedule: str, value: str, zone: ZoneInfo, was_due_ms: int, now_ms: int) -> int | None:
    """When a task that was due at `was_due_ms` is due again: later than `now_ms` and than `was_due_ms`.

    An interval stays on its grid (`was_due_ms` plus multiples), whatever was missed. Never loops: a damaged interval is
    looked at again after `DAMAGED_RETRY_MS`. None: never again.

    :raises ScheduleError: the stored schedule is unknown or its cron expression is damaged.
    """
    if schedule == Schedule.ONCE:
        return None
    if schedule == Schedule.INTERVAL:
        try:
            every = parse_interval(value)
        except ScheduleError:
            return max(now_ms, was_due_ms) + DAMAGED_RETRY_MS
        after = max(now_ms, was_due_ms) + (FIRE_GAP_MS_MIN - 1 if every < FIRE_GAP_MS_MIN else 0)
        return was_due_ms + ((after - was_due_ms) // every + 1) * every
    if schedule == Schedule.CRON:
        return parse_cron(value).next_after(max(now_ms, was_due_ms), zone)
    raise ScheduleError(f"schedule {schedule!r} is unknown: use once, interval or cron")


def not_too_far(schedule: str, value: str, zone: ZoneInfo, next_ms: int, now_ms: int) -> int:
    """The next due time when the clock may have been set back since it was reckoned: the same, if a task can have to
    wait for so long, else a sooner one. An interval stays on its grid.

    :raises ScheduleError: unknown schedule, or a value it can't have.
    """
    if schedule == Schedule.ONCE:
        return next_ms
    if schedule == Schedule.INTERVAL:
        every = parse_interval(value)
        too_far = next_ms - (now_ms + every + FIRE_GAP_MS_MIN)
        return next_ms - -(-too_far // every) * every if too_far > 0 else next_ms
    return min(next_ms, first_run(schedule, value, zone, now_ms))


def plan(schedule: str, value: str, zone: ZoneInfo, due_ms: int, now_ms: int, catch_up: str = CatchUp.LATEST) -> Plan:
    """What to fire of a task whose next due time, `due_ms`, has come, and when it is due again.

    :raises ScheduleError: the stored schedule is damaged.
    """
    if schedule == Schedule.ONCE:
        return Plan((due_ms,), None)
    following = next_run(schedule, value, zone, due_ms, now_ms)
    if catch_up == CatchUp.SKIP:
        newest = _latest(schedule, value, zone, due_ms, now_ms, 1)[-1]
        return Plan(() if is_missed(schedule, newest, now_ms, catch_up) else (newest,), following)
    keep = CATCH_UP_FIRES_MAX if catch_up == CatchUp.ALL else 1
    return Plan(_latest(schedule, value, zone, due_ms, now_ms, keep), following)


def is_missed(schedule: str, due_ms: int, now_ms: int, catch_up: str) -> bool:
    """Whether this due time passed too long ago for a task that makes none up."""
    return schedule != Schedule.ONCE and catch_up == CatchUp.SKIP and now_ms - due_ms >= MISSED_AFTER_MS


def _latest(schedule: str, value: str, zone: ZoneInfo, due_ms: int, now_ms: int, keep: int) -> tuple[int, ...]:
    """The newest `keep` due times from `due_ms` to `now_ms`."""
    if schedule == Schedule.INTERVAL:
        try:
            every = parse_interval(value)
        except ScheduleError:
            return (due_ms,)
        last = (now_ms - due_ms) // every
        return tuple(due_ms + index * every for index in range(max(0, last - keep + 1), last + 1))
    return parse_cron(value).latest(due_ms, now_ms, zone, keep)


# --- once and interval -------------------------------------------------------------------------------------


def parse_once(value: str, zone: ZoneInfo) -> int:
    """The instant of an ISO date and time; without an offset it is local time in `zone`, a date alone its midnight.

    A time that a change of the clocks skips is taken as much later as the gap is long, a repeated one the first time.
    24:00 is the midnight that ends the day.

    :raises ScheduleError: not such a text (bare numbers are not), or there is no such day.
    """
    text = value.strip()
    match = _ONCE.match(text)
    if match is None:
        raise ScheduleError(f"once {_short(text)} is not a time: write it like 2026-02-01T15:30:00")
    day, clock, fraction, offset = match.groups()
    try:
        is_days_end = clock is not None and _DAYS_END.match(clock) is not None and not (fraction or "").strip("0")
        wall = datetime.fromisoformat(f"{day}T{'00:00' if clock is None or is_days_end else clock}")
        if is_days_end:
            wall += timedelta(days=1)
        elif fraction:
            wall = wall.replace(microsecond=int(fraction.ljust(6, "0")[:6]))
        if offset is not None:
            when = datetime.fromisoformat(f"2000-01-01T00:00:00{offset.upper()}")
            moment = _to_ms(wall.replace(tzinfo=when.tzinfo))
        else:
            moment = _to_ms(wall.replace(tzinfo=zone))
    except (ValueError, OverflowError) as error:
        raise ScheduleError(f"once {_short(text)} does not exist ({error}): give a real date and time") from error
    if moment < 0:
        raise ScheduleError(f"once {_short(text)} lies before 1970: give a later time")
    return moment


def parse_interval(value: str) -> int:
    """Milliseconds of an interval, from 1 to `INTERVAL_MS_MAX`.

    :raises ScheduleError: not a whole number above 0, or too long.
    """
    text = value.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > VALUE_CHARS_MAX:
        raise ScheduleError(f"interval {_short(text)} is not a whole number of milliseconds: use one such as 3600000")
    # Leading zeros apart, more digits than the bound has are too many; int() of a long text would be slow.
    digits = text.lstrip("0")
    if not digits:
        raise ScheduleError("interval 0 would never rest: use milliseconds above 0, such as 3600000")
    if len(digits) > len(str(INTERVAL_MS_MAX)) or int(digits) > INTERVAL_MS_MAX:
        raise ScheduleError(f"interval {_short(text)} is longer than ten years: use at most {INTERVAL_MS_MAX}")
    return int(digits)


# --- cron --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cron:
    """A five-field expression as sets of numbers; `weekdays` counts from Sunday, 0 to 6."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    #: Both day fields are given: a day that matches either will do. Else a field `*` asks nothing.
    either_day: bool

    def next_after(self, after_ms: int, zone: ZoneInfo) -> int | None:
        """The first due instant later than `after_ms`; None when the calendar (year 9999) ends before."""
        try:
            after = datetime.fromtimestamp(after_ms // 1000, UTC).replace(second=0)
            found = self._in_real_time(after, zone) if len(self.hours) == 24 else self._by_wall_clock(after, zone)
        except (OverflowError, ValueError):
            return None
        return None if found is None else _to_ms(found)

    def latest(self, due_ms: int, now_ms: int, zone: ZoneInfo, keep: int) -> tuple[int, ...]:
        """The newest `keep` due instants up to `now_ms`; `due_ms` is one, and the oldest that may be given."""
        # Look back over spans that grow, so that a task missed for years costs no more than one missed for an hour.
        span = timedelta(hours=1)
        while True:
            start = max(due_ms, now_ms - int(span.total_seconds() * 1000))
            found: list[int] = [due_ms] if start == due_ms else []
            moment = self.next_after(start, zone)
            while moment is not None and moment <= now_ms:
                found.append(moment)
                moment = self.next_after(moment, zone)
            if len(found) >= keep or start == due_ms:
                return tuple(found[-keep:])
            span *= 8

    def _in_real_time(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        start = after + _MINUTE
        while True:
            wall = _wall(start, zone)
            match = next(self._matches(wall), None)
            if match is None:
                return None
            candidate = start + (match - wall)
            change = _first_change(start, candidate, zone)
            if change is None:
                return candidate
            start = change

    def _by_wall_clock(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        # After a gap, times inside it lie behind us on the wall clock but, moved, still before us in real time.
        gap = _offset(after, zone) - _offset(after - _GAP_MAX, zone)
        best: datetime | None = None
        for match in self._matches(_wall(after, zone) - max(gap, timedelta(0))):
            if best is not None and match > _wall(best, zone):
                break
            moment = match.replace(tzinfo=zone).astimezone(UTC)
            if moment > after and (best is None or moment < best):
                best = moment
        return best

    def _matches(self, wall: datetime) -> Iterator[datetime]:
        """Matching wall clock times from `wall` on, rising."""
        triggers = _triggers(self)
        while True:
            now = wall.replace(tzinfo=UTC)
            found = [time for trigger in triggers if (time := trigger.get_next_fire_time(None, now)) is not None]
            if not found:
                return
            wall = min(found).replace(tzinfo=None)
            yield wall
            wall += _MINUTE


@lru_cache(maxsize=256)
def parse_cron(value: str) -> Cron:
    """A five-field expression: numbers, names, lists, ranges, steps, 0 or 7 for Sunday; or @hourly and its kin.

    :raises ScheduleError: names the field and what is wrong with it; six fields, `L`, `W`, `#`, `?` are refused.
    """
    text = value.strip()
    fields = _MACROS.get(text.lower(), text).split()
    if len(text) > VALUE_CHARS_MAX:
        raise ScheduleError(f"cron is longer than {VALUE_CHARS_MAX} characters: make two tasks of it")
    if len(fields) != 5:
        raise ScheduleError(
            f"cron {_short(text)} has {len(fields)} fields: write five, minute hour day month weekday, like 0 9 * * 1-5"
        )
    weekdays = _field("weekday", fields[4], 0, 7, _WEEKDAYS)
    cron = Cron(
        minutes=_field("minute", fields[0], 0, 59), hours=_field("hour", fields[1], 0, 23),
        days=_field("day", fields[2], 1, 31), months=_field("month", fields[3], 1, 12, _MONTHS),
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=fields[2] != "*" and fields[4] != "*",
    )
    if not cron.either_day and min(cron.days) > max(_LONGEST_MONTH[month] for month in cron.months):
        raise ScheduleError(f"cron {_short(text)} never comes: those months have no day {min(cron.days)}")
    return cron


def _field(name: str, text: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        if slash and not (step_text.isascii() and step_text.isdigit() and len(step_text) <= 4 and int(step_text)):
            raise ScheduleError(f"cron {name} {part!r}: the step must be a whole number above 0")
        step = int(step_text) if slash else 1
        if span == "*":
            first, last = low, high
        else:
            first_text, dash, last_text = span.partition("-")
            first = _number(name, part, first_text, low, high, names)
            # `5/15` is "from 5 on, every 15", as in the cron that people know.
            last = _number(name, part, last_text, low, high, names) if dash else (high if slash else first)
        if last < first:
            raise ScheduleError(f"cron {name} {part!r}: the range ends before it begins")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(name: str, part: str, text: str, low: int, high: int, names: dict[str, int] | None) -> int:
    if names and text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise ScheduleError(f"cron {name} {part!r} is not understood: use numbers from {low} to {high}")
    if not low <= int(text) <= high:
        raise ScheduleError(f"cron {name} {text} is out of range: use {low} to {high}")
    return int(text)


@lru_cache(maxsize=256)
def _triggers(cron: Cron) -> tuple[CronTrigger, ...]:
    # CronTrigger counts weekdays from Monday.
    days = _listed(cron.days, 31)
    weekdays = _listed(frozenset((day - 1) % 7 for day in cron.weekdays), 7)
    pairs = ((days, "*"), ("*", weekdays)) if cron.either_day else ((days, weekdays),)
    return tuple(
        CronTrigger(
            minute=_listed(cron.minutes, 60), hour=_listed(cron.hours, 24), day=day, month=_listed(cron.months, 12),
            day_of_week=weekday, second="0", timezone=UTC,
        )
        for day, weekday in pairs
    )


def _listed(numbers: frozenset[int], count: int) -> str:
    """As CronTrigger reads it: `*` is quicker for it than a list of all."""
    return "*" if len(numbers) == count else ",".join(str(number) for number in sorted(numbers))


# --- the wall clock ----------------------------------------------------------------------------------------


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _first_change(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """The first minute in (start, end] whose offset differs from that of `start`."""
    offset = _offset(start, zone)
    low = start
    while low < end:
        high = min(low + _ZONE_STEP, end)
        if _offset(high, zone) != offset:
            while high - low > _MINUTE:
                middle = low + (high - low) // 2
                middle = middle.replace(second=0, microsecond=0)
                if _offset(middle, zone) == offset:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return None


def _to_ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
