"""A service's JSON log line as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

#: Fields with a place of their own in the line.
_PLACED = ("ts", "level", "service", "event", "trace")
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "grey"}


def for_people(line: str, paint: Callable[[str, str], str] = lambda text, _colour: text) -> str:
    """`13:05:01.120 warning  what happened  key=value …`; what is not one of our lines stays as it is."""
    try:
        fields = json.loads(line)
        moment = datetime.fromisoformat(fields["ts"]).astimezone()
        level, event = str(fields["level"]), str(fields["event"])
    except (ValueError, KeyError, TypeError):
        return line
    extra = " ".join(f"{key}={_short(value)}" for key, value in fields.items() if key not in _PLACED)
    shown = f"{paint(clock(moment), 'grey')} {paint(f'{level:<7}', _COLOURS.get(level, 'blue'))} {event}"
    if extra:
        shown += f"  {paint(extra, 'grey')}"
    if trace := fields.get("trace"):
        shown += "\n" + "\n".join(f"    {inner}" for inner in str(trace).splitlines())
    return shown


def clock(moment: datetime) -> str:
    """`13:05:01.120`, with the date before it unless that is today's."""
    day = "" if moment.date() == datetime.now().astimezone().date() else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def _short(value: object) -> str:
    if isinstance(value, str) and " " not in value and value.isprintable():
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
