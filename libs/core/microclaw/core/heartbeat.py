"""The heartbeat: now and then the main group's agent looks at its HEARTBEAT.md, unasked, and speaks only if it must.

It is a task of its own (`TASK_ID`) with a session of its own. What keeps it cheap: outside the active hours nothing
happens, and a file that says nothing to do ends the run before a sandbox or a model is needed. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from microclaw.core.errors import UsageError

#: Its task; there is at most one.
TASK_ID = "heartbeat"
#: In the main group's folder.
FILE_NAME = "HEARTBEAT.md"
#: Of a larger file only the beginning is looked at.
FILE_BYTES_MAX = 64 * 1024
#: The answer that means: nothing to say.
OK = "HEARTBEAT_OK"
#: Besides `OK`, so much politeness is dropped with it, in characters.
POLITENESS_CHARS_MAX = 80

PROMPT = (
    f"Read {FILE_NAME} in your folder and do what it asks for now. If nothing needs attention, answer with {OK} alone: "
    "then nothing is sent. Otherwise answer with what has to be said, without that word."
)
#: How the log calls a run that was not needed.
EMPTY = f"{FILE_NAME} says nothing to do"

_HOURS = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
#: A line that asks for nothing: blank, a heading, a rule, an item without a text.
_IDLE_LINE = re.compile(r"\s*(?:#.*|[-*_]{3,}|(?:[-*+]|\d+[.)])?\s*(?:\[[ xX]?\])?)\s*\Z")
_OK_WORD = re.compile(rf"[*_`\s]*\b{OK}\b[*_`.!\s]*")


@dataclass(frozen=True, slots=True)
class ActiveHours:
    """From one time of day to another, in minutes since midnight; past midnight if the end comes first."""

    first: int
    last: int

    def hold(self, now_ms: int, zone: ZoneInfo) -> bool:
        """Whether they are now, on that zone's wall clock."""
        if self.first == self.last:
            return True
        wall = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone)
        minute = wall.hour * 60 + wall.minute
        if self.first < self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last


ALWAYS = ActiveHours(0, 0)


def active_hours(text: str) -> ActiveHours:
    """`08:00-22:00`; "" = always. `24:00` is the day's end.

    :raises UsageError: it is not that.
    """
    if not text:
        return ALWAYS
    found = _HOURS.fullmatch(text.replace(" ", ""))
    if found:
        first, last = (int(found[hour]) * 60 + int(found[hour + 1]) for hour in (1, 3))
        if int(found[2]) < 60 and int(found[4]) < 60 and first < 24 * 60 and last <= 24 * 60:
            return ActiveHours(first, last % (24 * 60))
    raise UsageError(f"heartbeat.active_hours {text!r} is not a span of the day: write it like 08:00-22:00")


def is_idle(content: str) -> bool:
    """Whether the file asks for nothing: it is empty, or holds only headings, comments and items without a text."""
    return all(_IDLE_LINE.match(line) for line in _COMMENT.sub("", content).splitlines())


def worth_saying(answer: str) -> str:
    """What of an answer is to be sent, "" = nothing: with `OK`, a few polite words are no news."""
    if not _OK_WORD.search(answer):
        return answer
    rest = _OK_WORD.sub(" ", answer).strip()
    return "" if len(rest) <= POLITENESS_CHARS_MAX else rest
