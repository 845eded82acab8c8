"""Answers that need no tool: help, the time, a greeting."""

from __future__ import annotations

import re

from microclaw.agent.local.skills import HELP, Asked, Skill, plain
from microclaw.agent.plan import Plan

_PLEASE = r"(?:(?:please|hey|hi|hello|ok|okay),?\s+)*"
_END = r"\s*[.!?]*$"


def _help(_: Asked, __: re.Match[str]) -> Plan:
    return plain(HELP)


def _time(asked: Asked, _: re.Match[str]) -> Plan:
    return plain(f"It is {asked.now:%H:%M} ({asked.now.tzname()}).")


def _date(asked: Asked, _: re.Match[str]) -> Plan:
    now = asked.now
    return plain(f"Today is {now:%A}, {now.day} {now:%B} {now.year}.")


def _hello(asked: Asked, _: re.Match[str]) -> Plan:
    return plain(f"Hello, I am {asked.assistant}. Say \"help\" to see what I can do.")


def _thanks(_: Asked, __: re.Match[str]) -> Plan:
    return plain("You're welcome.")


SKILLS: tuple[tuple[str, Skill], ...] = (
    (rf"{_PLEASE}/?(?:help(?: me)?|commands|what can you do|what do you (?:know|understand)){_END}", _help),
    (rf"{_PLEASE}(?:tell me )?(?:what(?:'s| is)? (?:the )?(?:current )?time(?: is it| it is)?(?: now)?|"
     rf"the time|time){_END}", _time),
    (rf"{_PLEASE}(?:tell me )?(?:what(?:'s| is)? (?:the |today'?s )?(?:current )?(?:date|day)(?: is it| is today)?"
     rf"(?: today)?|today'?s date|the date|date){_END}", _date),
    (rf"(?:hi|hello|hey|good (?:morning|afternoon|evening)|greetings|hi there|hello there)(?:[, ]+\w+)?{_END}", _hello),
    (rf"(?:thanks|thank you|thx|cheers)(?: (?:a lot|very much|so much|\w+))?{_END}", _thanks),
)
