"""When something should happen, in plain English: `in 10 seconds`, `tomorrow at 9`, `every weekday at 8:30`.

Pure: now (with the owner's zone) comes in. Hours and shorter are counted in real time, days and longer on the wall
clock, so that `in 2 days` is the same hour whatever the clocks did in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: The hour of a day that is named without one.
DEFAULT_HOUR = 9
#: Farther away than this is a typing error, in days.
DAYS_MAX = 3650

DAY_PARTS = {"morning": 9, "noon": 12, "midday": 12, "afternoon": 15, "evening": 19, "night": 21, "tonight": 20}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty-five": 45, "sixty": 60,
}
_UNITS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}


class MomentError(ValueError):
    """It is understood, but can't be: the text says why, for the person who asked."""


@dataclass(frozen=True)
class Once:
    """One moment."""

    at: datetime


@dataclass(frozen=True)
class Interval:
    """Again and again, so many seconds apart."""

    seconds: int


@dataclass(frozen=True)
class Cron:
    """Again and again at a time of the day; `days` as people say it."""

    minute: int
    hour: int
    day_of_month: str = "*"
    day_of_week: str = "*"
    days: str = "every day"

    @property
    def fields(self) -> str:
        return f"{self.minute} {self.hour} {self.day_of_month} * {self.day_of_week}"


When = Once | Interval | Cron


def split_when(text: str, now: datetime) -> tuple[When, str] | None:
    """A sentence as when and what: the time stands at its beginning or at its end. None if there is none.

    Raises MomentError if there is one that can't be.
    """
    words = text.strip().rstrip(".!?").strip()
    found = read_when(words, now)
    if found is not None:
        when, end = found
        return when, words[end:].strip(" ,")
    for start in _word_starts(words):
        found = read_when(words[start:], now)
        if found is not None and not words[start + found[1]:].strip(" ,"):
            return found[0], words[:start].strip(" ,")
    return None


def read_when(text: str, now: datetime) -> tuple[When, int] | None:
    """The time at the very beginning of `text`, and where it ends. Raises MomentError."""
    low = text.lower()
    for reader in (_read_repeat, _read_after, _read_date):
        found = reader(low, now)
        if found is not None and (found[1] == len(low) or not low[found[1]].isalnum()):
            return found
    return None


def _word_starts(text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(r"(?<!\S)\S", text) if match.start())


# --- amounts: "10 seconds", "an hour and 30 minutes", "1h30m", "half an hour" ---------------------------------------

_AMOUNT = re.compile(
    r"(?P<half>half an? )?(?P<number>\d{1,7}(?:\.\d{1,3})?|(?:" + "|".join(_NUMBERS) + r")\b)?\s*"
    r"(?P<unit>seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|[smhdw])(?![a-z])(?P<and_half> and a half)?"
)
_MORE = re.compile(r"(?:,? and |, | )?(?=\d|a |an )|(?<=[smhd])(?=\d)")


def _read_amount(low: str) -> tuple[float, int] | None:
    """Seconds, and where the amount ends."""
    seconds, end = 0.0, 0
    while match := _AMOUNT.match(low, end):
        number = match["number"]
        if number is None and not match["half"]:
            break
        unit_word = match["unit"]
        unit = _UNITS[unit_word if unit_word in _UNITS else unit_word.rstrip("s")]
        count = float(number) if number and number[0].isdigit() else float(_NUMBERS[number]) if number else 1.0
        if match["half"]:
            count = 0.5
        if match["and_half"]:
            count += 0.5
        seconds += count * unit
        end = match.end()
        more = _MORE.match(low, end)
        if more is None or not _AMOUNT.match(low, more.end()):
            break
        end = more.end()
    return (seconds, end) if end else None


def _read_after(low: str, now: datetime) -> tuple[When, int] | None:
    head = re.match(r"(?:in|after|for)\s+", low)
    if head is None:
        return None
    found = _read_amount(low[head.end():])
    if found is None:
        return None
    seconds, end = found
    if seconds > DAYS_MAX * 86400:
        raise MomentError("that is more than ten years away")
    if seconds < 1:
        raise MomentError("that is less than a second away")
    if seconds % 86400 == 0:
        at = _real(now + timedelta(seconds=seconds))
    else:
        at = (now.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(now.tzinfo)
    return Once(at), head.end() + end


# --- a time of the day: "at 9", "17:45", "9:30 pm", "noon" ----------------------------------------------------------

_CLOCK = re.compile(
    r"(?P<at>(?:at|by|@)\s*)?(?:(?P<hour>\d{1,2})(?:[:.](?P<minute>\d{2}))?(?:\s*(?P<half>[ap]\.?m\b\.?))?"
    r"(?:\s*o'?clock)?|(?P<word>noon|midday|midnight))(?![\d:])"
)


def _read_clock(low: str, *, bare: bool = False) -> tuple[int, int, int] | None:
    """Hour, minute, where it ends. A number alone is a time only after `at` (or if `bare`)."""
    match = _CLOCK.match(low)
    if match is None:
        return None
    if match["word"]:
        return (0 if match["word"] == "midnight" else 12), 0, match.end()
    if not (match["at"] or match["minute"] or match["half"] or bare):
        return None
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    if match["half"]:
        if not 1 <= hour <= 12:
            raise MomentError(f"{hour} {match['half']} is not a time of the day")
        hour = hour % 12 + (12 if match["half"].startswith("p") else 0)
    if hour > 23 or minute > 59:
        raise MomentError(f"{hour}:{minute:02} is not a time of the day")
    return hour, minute, match.end()


# --- a date: "tomorrow at 9", "on friday", "2026-12-24 18:00", "at 17:45 today" -------------------------------------

_DAY = re.compile(
    r"(?:(?P<today>today|tonight|this (?:morning|afternoon|evening))|(?P<tomorrow>tomorrow)"
    r"|(?P<later>the day after tomorrow)"
    r"|(?:on |next |this )?(?P<weekday>" + "|".join(WEEKDAYS) + r")\b"
    r"|(?:on )?(?P<iso>\d{4}-\d{2}-\d{2})"
    r"|(?:on )?(?:the )?(?P<day>\d{1,2})(?:st|nd|rd|th)?(?: of)? "
    r"(?P<month>" + "|".join(MONTHS) + r")(?:,? (?P<year>\d{4}))?"
    r"|(?:on )?(?P<month2>" + "|".join(MONTHS) + r") (?P<day2>\d{1,2})(?:st|nd|rd|th)?(?:,? (?P<year2>\d{4}))?)"
    r"(?: (?:in the )?(?P<part>morning|noon|afternoon|evening|night)\b)?"
)


def _read_date(low: str, now: datetime) -> tuple[When, int] | None:
    clock = _read_clock(low)
    day_start = clock[2] if clock is not None else 0
    gap = re.compile(r",?\s+").match(low, day_start) if clock is not None else None
    match = _DAY.match(low, gap.end() if gap is not None else day_start) if clock is None or gap is not None else None
    if match is None:
        return None if clock is None else (_next_time(now, clock[0], clock[1]), clock[2])
    end = match.end()
    if clock is None:
        gap = re.compile(r",?\s+").match(low, end)
        clock = _read_clock(low[gap.end():]) if gap is not None else None
        if clock is not None and gap is not None:
            end = gap.end() + clock[2]
    hour, minute = clock[:2] if clock is not None else (_part_hour(match), 0)
    day = _day_of(match, now)
    at = _real(datetime(day.year, day.month, day.day, hour, minute, tzinfo=now.tzinfo))
    if match["weekday"] and at <= now:
        at = _real(at + timedelta(days=7))
    if at <= now:
        raise MomentError(f"{at:%Y-%m-%d %H:%M} is past already")
    if (at.date() - now.date()).days > DAYS_MAX:
        raise MomentError("that is more than ten years away")
    return Once(at), end


def _part_hour(match: re.Match[str]) -> int:
    named = match["part"] or (match["today"] or "").rpartition(" ")[2]
    return DAY_PARTS.get(named, DEFAULT_HOUR)


def _next_time(now: datetime, hour: int, minute: int) -> Once:
    at = _real(now.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0))
    if at <= now:
        at = _real(now.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0) + timedelta(days=1))
    return Once(at)


def _day_of(match: re.Match[str], now: datetime) -> date:
    today = now.date()
    if match["today"]:
        return today
    if match["tomorrow"]:
        return today + timedelta(days=1)
    if match["later"]:
        return today + timedelta(days=2)
    if match["weekday"]:
        return today + timedelta(days=(WEEKDAYS.index(match["weekday"]) - today.weekday()) % 7)
    try:
        if match["iso"]:
            return date.fromisoformat(match["iso"])
        month = MONTHS.index(match["month"] or match["month2"]) + 1
        day, year = int(match["day"] or match["day2"]), match["year"] or match["year2"]
        if year:
            return date(int(year), month, day)
        # 29 February may be years away.
        for ahead in range(9):
            try:
                found = date(today.year + ahead, month, day)
            except ValueError:
                continue
            if found >= today:
                return found
        raise ValueError
    except ValueError as error:
        raise MomentError("that day is not in the calendar") from error


def _real(wall: datetime) -> datetime:
    """A wall-clock time that a change of the clocks skips is as much later as the gap is long."""
    return wall.astimezone(UTC).astimezone(wall.tzinfo)


# --- again and again: "every 20 minutes", "every weekday at 8:30", "daily at 7" -------------------------------------

_EVERY = re.compile(r"(?:every|each)\s+")
_DAYS = re.compile(
    r"(?:(?P<daily>daily|every ?day|each day|every single day)"
    r"|(?P<weekdays>(?:every |each |on )?(?:weekdays?|workdays?))"
    r"|(?P<weekend>(?:every |each |on )?weekends?|(?:at|on) (?:the )?weekends?)"
    r"|(?P<part>(?:every|each) (?:morning|noon|afternoon|evening|night))"
    r"|(?:every |each )(?P<named>(?:(?:" + "|".join(WEEKDAYS) + r")(?:, and | and |, )?)+)"
    r"|on (?P<plural>(?:(?:" + "|".join(WEEKDAYS) + r")s(?:, and | and |, )?)+)"
    r"|(?:every month|monthly) on (?:the )?(?P<monthday>\d{1,2})(?:st|nd|rd|th)?)(?![a-z])"
)


def _read_repeat(low: str, now: datetime) -> tuple[When, int] | None:  # noqa: ARG001 - one shape for all readers
    clock = _read_clock(low)
    gap = re.compile(r",?\s+").match(low, clock[2]) if clock is not None else None
    if clock is not None and gap is None:
        return None
    start = gap.end() if gap is not None else 0
    match = _DAYS.match(low, start)
    if match is None:
        return _read_interval(low) if clock is None else None
    end = match.end()
    if clock is None:
        after = re.compile(r",?\s+").match(low, end)
        clock = _read_clock(low[after.end():]) if after is not None else None
        if clock is not None and after is not None:
            end = after.end() + clock[2]
    part_hour = DAY_PARTS[match["part"].rpartition(" ")[2]] if match["part"] else DEFAULT_HOUR
    hour, minute = clock[:2] if clock is not None else (part_hour, 0)
    if match["monthday"]:
        day = int(match["monthday"])
        if not 1 <= day <= 31:
            raise MomentError("that day is not in the calendar")
        return Cron(minute, hour, day_of_month=str(day), days=f"every month on day {day}"), end
    return Cron(minute, hour, day_of_week=_days(match)[0], days=_days(match)[1]), end


def _days(match: re.Match[str]) -> tuple[str, str]:
    if match["weekdays"]:
        return "1-5", "every weekday"
    if match["weekend"]:
        return "0,6", "every Saturday and Sunday"
    if named := match["named"] or match["plural"]:
        numbers = [number for number, name in enumerate(WEEKDAYS) if name in named]
        names = [WEEKDAYS[number].capitalize() for number in numbers]
        # Cron counts from Sunday.
        return ",".join(str((number + 1) % 7) for number in numbers), "every " + " and ".join(names)
    return "*", "every day"


def _read_interval(low: str) -> tuple[When, int] | None:
    if low.startswith("hourly"):
        return Interval(3600), len("hourly")
    head = _EVERY.match(low)
    if head is None:
        return None
    rest = low[head.end():]
    single = re.match(r"(second|minute|hour|week|other day)(?![a-z])", rest)
    if single is not None:
        return Interval({"second": 1, "minute": 60, "hour": 3600, "week": 604800}.get(single[1], 172800)), (
            head.end() + single.end()
        )
    found = _read_amount(rest)
    if found is None:
        return None
    seconds = round(found[0])
    if not 1 <= seconds <= DAYS_MAX * 86400:
        raise MomentError("that interval is too short or too long")
    return Interval(seconds), head.end() + found[1]


# --- saying it --------------------------------------------------------------------------------------------------------

def say_when(when: When, now: datetime) -> str:
    """As the assistant confirms it, in local time."""
    match when:
        case Once():
            return say_moment(when.at, now)
        case Cron():
            return f"{when.days} at {when.hour:02}:{when.minute:02}"
        case Interval():
            return f"every {say_amount(when.seconds)}"


def say_moment(at: datetime, now: datetime) -> str:
    """`today at 13:05:10`, `tomorrow at 09:00`, `on Friday 27 November at 09:00`."""
    clock = f"{at:%H:%M:%S}" if at.second else f"{at:%H:%M}"
    days = (at.date() - now.date()).days
    if days == 0:
        return f"today at {clock}"
    if days == 1:
        return f"tomorrow at {clock}"
    day = f"{at:%A} {at.day} {at:%B}" + (f" {at.year}" if at.year != now.year else "")
    return f"on {day} at {clock}"


def say_amount(seconds: int) -> str:
    """`20 minutes`, `1 hour and 30 minutes`."""
    parts: list[str] = []
    for name, size in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"
