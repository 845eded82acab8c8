"""Reminders and other things for later: made, listed, cancelled, paused, and said when their time comes."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from microclaw.agent.local.moments import (
    Cron,
    Interval,
    MomentError,
    Once,
    When,
    say_moment,
    say_when,
    split_when,
)
from microclaw.agent.local.skills import Asked, Skill, plain
from microclaw.agent.plan import Plan, Want

#: How a reminder's task begins; with a model configured the same words ask the model to remind.
REMIND = "Reminder: "

_VERB = re.compile(
    r"\b(?:remind|tell|ping|notify|alert|nudge) (?:me|us)\b(?: (?:again))?|\bset (?:me )?an? (?:reminder|alarm|timer)\b"
    r"|\bwake me(?: up)?\b", re.IGNORECASE
)
_LEAD = re.compile(
    r"^(?:(?:please|hey|can you|could you|would you|will you|to|for|that|about|,|:|-)\s*\b)+", re.IGNORECASE
)
_TAIL = re.compile(r"[\s,]+(?:please|to|that|for)?\s*$", re.IGNORECASE)
_USAGE = 'Say it like "remind me in 10 minutes to stretch" or "remind me tomorrow at 9 to call mum".'


def _make(asked: Asked, _: re.Match[str]) -> Plan | None:
    """`remind me …` with the time before or after; `every … tell me …`."""
    text = " ".join(asked.text.split())
    verb = _VERB.search(text)
    if verb is None:
        return None
    before, after = text[:verb.start()].strip(" ,"), text[verb.end():].strip(" ,:")
    before = _LEAD.sub("", before)
    try:
        found = _when_and_what(before, after, asked.now)
    except MomentError as error:
        return plain(f"I can't set that reminder: {error}.")
    if found is None:
        return plain(f"When? {_USAGE}") if verb[0].lower().startswith(("remind", "set", "wake")) else None
    when, what = found
    what = _clean(what)
    if not what:
        what = "wake up" if "wake" in verb[0].lower() else "time is up" if "timer" in verb[0].lower() else ""
    return _schedule(when, what, asked) if what else plain(f"Remind you of what? {_USAGE}")


def _when_and_what(before: str, after: str, now: datetime) -> tuple[When, str] | None:
    if before:
        found = split_when(before, now)
        return (found[0], after) if found is not None and not found[1] else None
    # "a timer for 10 minutes" has a time after "for", "a reminder for tomorrow" has it there too.
    return split_when(after, now) or split_when(re.sub(r"^(?:to|for|that)\s+", "", after, flags=re.IGNORECASE), now)


def _clean(what: str) -> str:
    return _TAIL.sub("", _LEAD.sub("", what.strip())).strip(" .,") if what else ""


def _schedule(when: When, what: str, asked: Asked) -> Plan:
    kind, value = _value(when)
    result = yield Want("schedule_task", {
        "prompt": REMIND + what, "schedule_type": kind, "schedule_value": value, "context_mode": "isolated",
    })
    if not result.ok:
        return f"I could not set that reminder: {result.text}"
    return f"OK, I will remind you {say_when(when, asked.now)}: {what}"


def _value(when: When) -> tuple[str, str]:
    match when:
        case Once():
            return "once", when.at.isoformat(timespec="milliseconds")
        case Interval():
            return "interval", str(when.seconds * 1000)
        case Cron():
            return "cron", when.fields


def _fire(asked: Asked, match: re.Match[str]) -> Plan | None:
    return plain(f"⏰ Reminder: {match['what'].strip()}") if asked.is_task else None


# --- what there is ----------------------------------------------------------------------------------------------------

#: A task in the host's list: `- [id] text`, or one of a JSON array of `requests.TaskRow`.
_ROW = re.compile(r"^\s*(?:[-*•]|\d+[.)])?\s*\[(?P<id>[^\]\s]+)\]\s*(?P<text>.*)$", re.MULTILINE)


def read_tasks(text: str, now: datetime) -> list[tuple[str, str]]:
    """Id and description of each task of the host's answer that may still run, in its order."""
    try:
        rows: Any = json.loads(text)
    except ValueError:
        return [(match["id"], match["text"].strip()) for match in _ROW.finditer(text)]
    if isinstance(rows, dict):
        rows = rows.get("tasks", [])
    return [
        (str(row["id"]), _describe(row, now))
        for row in rows if isinstance(row, dict) and "id" in row and row.get("status") != "completed"
    ]


def _describe(row: dict[str, Any], now: datetime) -> str:
    text = str(row.get("prompt", "")).removeprefix(REMIND)
    next_run_ms = row.get("next_run_ms")
    status = str(row.get("status", "active"))
    if status != "active":
        return f"{text} ({status})"
    if isinstance(next_run_ms, int):
        return f"{text} – {say_moment(datetime.fromtimestamp(next_run_ms // 1000, now.tzinfo), now)}"
    return text


def _list(asked: Asked, _: re.Match[str]) -> Plan:
    result = yield Want("list_tasks", {})
    if not result.ok:
        return f"I could not look: {result.text}"
    tasks = read_tasks(result.text, asked.now)
    if not tasks:
        return "There are no reminders."
    return "\n".join(f"{number}. {text} [{name}]" for number, (name, text) in enumerate(tasks, start=1))


_DONE = {"cancel": "Cancelled", "pause": "Paused", "resume": "Resumed"}


def _change(asked: Asked, match: re.Match[str]) -> Plan:
    verb = match["verb"].lower()
    action = "cancel" if verb in ("cancel", "delete", "remove", "stop") else "resume" if verb == "continue" else verb
    result = yield Want("list_tasks", {})
    if not result.ok:
        return f"I could not look: {result.text}"
    tasks = read_tasks(result.text, asked.now)
    which = match["which"].strip("#[]. !")
    everything = which.lower() == "all"
    chosen = tasks if everything else [
        task for number, task in enumerate(tasks, start=1) if which in (str(number), task[0])
    ]
    if not chosen:
        return f"There is no reminder {which}. Say \"list my reminders\" to see their numbers."
    said = []
    for name, text in chosen:
        result = yield Want(f"{action}_task", {"task_id": name})
        said.append(f"{_DONE[action]}: {text}" if result.ok else f"I could not {action} {name}: {result.text}")
    return "\n".join(said)


_THINGS = r"(?:reminders?|tasks?|alarms?|timers?|schedules?)"
_CHANGE = r"(?:please )?(?P<verb>cancel|delete|remove|stop|pause|resume|continue)"
SKILLS: tuple[tuple[str, Skill], ...] = (
    (r"(?s)reminder: (?P<what>.+)$", _fire),
    (rf"(?:please )?(?:list|show|what are)(?: me)?(?: all)?(?: of)?(?: my| the| our)? (?:scheduled )?{_THINGS}"
     r"\s*[.!?]*$", _list),
    (rf"(?:my )?{_THINGS}\s*\??$", _list),
    (rf"{_CHANGE} (?:my |the )?{_THINGS} (?:number |no\.? ?)?"
     r"(?P<which>\S+)\s*$", _change),
    (rf"{_CHANGE} (?P<which>all)(?: of)?(?: my| the)? {_THINGS}"
     r"\s*[.!]*$", _change),
    (r".*", _make),
)
