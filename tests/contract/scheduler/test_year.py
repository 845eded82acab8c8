"""A year of two hundred tasks in two zones, with kills, outages and a clock that is set: each due time fires once.

What should have fired is reckoned here a second time, without the scheduler's own arithmetic: cron from the calendar
(`datetime` maps a wall clock time to an instant), intervals by adding up.

The full form has more fires a day: `MICROCLAW_LONG=1 pytest tests/contract/scheduler/test_year.py -s`.
"""

from __future__ import annotations

import os
import random
from bisect import bisect
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from tests.contract.scheduler.clockwork import Clockwork, Killed

from microclaw.core.schedule import MISSED_AFTER_MS
from microclaw.scheduler.serve import SET_BACK_MS

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
ZONES = ("America/New_York", "Europe/Berlin")
TASKS = 200
HOUR_MS = 3_600_000
LONG = bool(os.environ.get("MICROCLAW_LONG"))


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@dataclass
class Kept:
    """A task, and what it must fire by our own reckoning."""

    id: str
    catch_up: str
    #: Of once and cron: all its due times, rising.
    dues: list[int] = field(default_factory=list)
    #: Of an interval.
    every_ms: int = 0
    next_ms: int = 0
    fired: set[int] = field(default_factory=set)

    def fires(self, before_ms: int, now_ms: int) -> list[int]:
        """What falls due while the clock goes from here to there, as its policy says, and did not fire before."""
        if self.every_ms:
            passed = list(range(self.next_ms, now_ms + 1, self.every_ms))
            self.next_ms += len(passed) * self.every_ms
        else:
            passed = self.dues[bisect(self.dues, before_ms): bisect(self.dues, now_ms)]
        if self.catch_up != "all":
            passed = [due for due in passed[-1:] if self.catch_up == "latest" or now_ms - due < MISSED_AFTER_MS]
        fresh = [due for due in passed if due not in self.fired]
        self.fired.update(fresh)
        return fresh

    def clock_went_back(self, now_ms: int) -> None:
        """An interval goes on from the new time: it would stand still else, for as long as the clock was wrong."""
        if self.every_ms:
            self.next_ms = min(self.next_ms, now_ms + self.every_ms)


def calendar_dues(zone: str, hours: list[int], minute: int, weekdays: set[int], days: set[int]) -> list[int]:
    """Instants of these wall clock times: a skipped one as much later as the gap, a repeated one the first time."""
    found = []
    day = date(2025, 12, 30)
    while day < date(2027, 1, 3):
        if day.isoweekday() % 7 in weekdays and day.day in days:
            found += [ms(datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone))) for hour in hours]
        day += timedelta(days=1)
    return sorted({due for due in found if due > ms(START)})


class Year:
    """The world: `chance` decides everything that happens."""

    def __init__(self, folder: Path, seed: int, *, dense: bool) -> None:
        self.chance = random.Random(seed)
        self.dense = dense
        self.clock = Clockwork(folder, ms(START))
        self.tasks = [self._make(f"{seed}-{number}") for number in range(TASKS)]
        self.expected: list[tuple[str, int]] = []
        self.happened: Counter[str] = Counter()
        #: The clock when it was last looked at, or set.
        self.before = ms(START)

    def _make(self, command_id: str) -> Kept:
        chance = self.chance
        catch_up = chance.choice(["all", "all", "latest", "skip"])
        kind = chance.choice(["once", "interval", "cron"])
        facts = {"command_id": command_id, "catch_up": catch_up, "timezone": chance.choice(ZONES)}
        if kind == "once":
            due = ms(START) + chance.randrange(1, int((END - START).total_seconds())) * 1000
            made = self.clock.create("once", datetime.fromtimestamp(due / 1000, UTC).isoformat(), **facts)
            return Kept(made.id, "all", [due])
        if kind == "interval":
            every = chance.choice([6, 20, 50] if self.dense else [31 * 24, 40 * 24, 61 * 24]) * HOUR_MS + 60_000 * 7
            made = self.clock.create("interval", str(every), **facts)
            return Kept(made.id, catch_up, every_ms=every, next_ms=ms(START) + every)
        # Hours around the changes of the clocks.
        hours = sorted(chance.sample([1, 2, 3, 9, 21], 2) if self.dense else [chance.randrange(1, 4)])
        minute = chance.choice([0, 30, 59])
        days, weekdays = set(range(1, 32)), set(range(7))
        match chance.choice(["daily", "weekly"] if self.dense else ["daily", "weekly", "weekly"] + ["monthly"] * 40):
            case "weekly":
                # The clocks change on Sundays.
                weekdays = {0, chance.randrange(7)}
            case "monthly":
                # Of the changes in 2026: 8 March, 1 November; 29 March, 25 October.
                days = {chance.choice([8, 1, 29, 25])}
        value = " ".join((
            str(minute), ",".join(map(str, hours)), "*" if len(days) == 31 else ",".join(map(str, sorted(days))), "*",
            "*" if len(weekdays) == 7 else ",".join(map(str, sorted(weekdays))),
        ))
        made = self.clock.create("cron", value, **facts)
        return Kept(made.id, catch_up, calendar_dues(facts["timezone"], hours, minute, weekdays, days))

    def live(self) -> None:
        """Until the year is over."""
        while self.clock.now < ms(END):
            self._move()
            self._fire()
            self.clock.finish_all()

    def _move(self) -> None:
        """Time passes: to the next due time as when all is well, or past some, or the clock is set."""
        fate, clock = self.chance.random(), self.clock
        if fate < 0.90:
            due = clock.firing.next_due_ms()
            # As the service: late by a little, never early.
            clock.now = max(clock.now, (due or ms(END)) + self.chance.choice([0, 0, 3, 700]))
        elif fate < 0.98:
            self.happened["outage"] += 1
            clock.now += self.chance.choice([1, 5, 26, 70]) * HOUR_MS + self.chance.randrange(HOUR_MS)
        else:
            self.happened["clock set back"] += 1
            clock.now = max(ms(START), clock.now - self.chance.choice([2, 26]) * HOUR_MS - SET_BACK_MS)
            clock.firing.clock_went_back()
            self.before = clock.now
            for task in self.tasks:
                task.clock_went_back(clock.now)
        clock.now = min(clock.now, ms(END))

    def _fire(self) -> None:
        clock = self.clock
        for task in self.tasks:
            self.expected += [(task.id, due) for due in task.fires(self.before, clock.now)]
        self.before = clock.now
        if self.chance.random() < 0.1:
            self.happened["kill"] += 1
            with Killed(clock, before=self.chance.random() < 0.5):
                clock.firing.fire(clock.firing.due(), clock.folders)
            clock.start()
        clock.tick()


def a_year(folder: Path, seed: int, *, dense: bool) -> tuple[Year, list[tuple[str, int]]]:
    folder.mkdir()
    year = Year(folder, seed, dense=dense)
    year.live()
    return year, year.clock.fired()


@pytest.mark.parametrize("seed", [1])
def test_pain18_in_a_year_of_two_hundred_tasks_each_due_time_fires_once(seed: int, tmp_path: Path) -> None:
    check_years(seed, tmp_path, dense=False)


@pytest.mark.skipif(not LONG, reason="minutes; set MICROCLAW_LONG")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_busy_year(seed: int, tmp_path: Path) -> None:
    check_years(seed, tmp_path, dense=True)


def check_years(seed: int, folder: Path, *, dense: bool) -> None:
    year, fired = a_year(folder / "first", seed, dense=dense)
    assert len(fired) == len(set(fired))
    by_task: dict[str, list[list[int]]] = defaultdict(lambda: [[], []])
    for number, pairs in enumerate((fired, year.expected)):
        for task_id, due in pairs:
            by_task[task_id][number].append(due)
    assert {task_id: both for task_id, both in by_task.items() if sorted(both[0]) != sorted(both[1])} == {}
    assert min(year.happened["kill"], year.happened["outage"], year.happened["clock set back"]) > 5
    print(f"{TASKS} tasks, {len(fired)} fires, {dict(year.happened)}")
    assert a_year(folder / "second", seed, dense=dense)[1] == fired
