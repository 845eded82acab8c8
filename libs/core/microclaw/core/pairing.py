"""How a stranger is let in: a code that the stranger tells the owner. Pure.

The first message of somebody we don't know is answered with one code; what they write is held. The owner's yes to the
code (`microclaw pairing approve`, `/pairing approve`) makes them a user, and hands over what was held.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from microclaw.core.approvals import read_code, shown_code
from microclaw.core.people import shown

#: A code is good for so long.
LIFE_MS = 3600 * 1000
#: Codes of one channel that wait at the same time.
PENDING_MAX = 3
#: Codes one sender gets in a day: whoever is not let in is not answered for ever.
CODES_PER_DAY_MAX = 3
DAY_MS = 24 * 3600 * 1000
#: Wrong codes on one channel within `LIFE_MS`; then none is taken until some are older.
WRONG_MAX = 5
#: Messages that are held of one sender, and of one channel; later ones are not kept.
HELD_PER_SENDER_MAX = 20
HELD_PER_CHANNEL_MAX = 200
#: How long they are held, and how long what became of a code is remembered.
HELD_MS = 7 * DAY_MS
KEPT_MS = 30 * DAY_MS

#: pending → approved → revoked; pending → denied → revoked (may ask again).
State = Literal["pending", "approved", "denied", "revoked"]
Answer = Literal["approve", "deny", "revoke"]


@dataclass(frozen=True, slots=True)
class Pairing:
    """What is known of a code."""

    state: State
    asked_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer does not count, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class AtDoor:
    """What becomes of a stranger's message."""

    #: It is kept until the owner has answered.
    held: bool
    #: The stranger is given a new code, and the owner is told.
    asks: bool = False


def at_door(
    mine: Collection[Pairing], pending_here: int, held_mine: int, held_here: int, *, now_ms: int
) -> AtDoor:
    """What becomes of a message of a stranger. `mine`: the stranger's codes that are remembered."""
    if any(each.state == "denied" and now_ms - each.asked_ms < KEPT_MS for each in mine):
        return AtDoor(held=False)
    held = held_mine < HELD_PER_SENDER_MAX and held_here < HELD_PER_CHANNEL_MAX
    waits = any(each.state == "pending" and now_ms < each.expires_ms for each in mine)
    lately = sum(now_ms - each.asked_ms < DAY_MS for each in mine)
    asks = held and not waits and pending_here < PENDING_MAX and lately < CODES_PER_DAY_MAX
    return AtDoor(held, asks)


def answered(found: Pairing | None, answer: Answer, wrong_lately: int, *, now_ms: int) -> State | Refused:
    """The state of a code after the owner's answer."""
    if wrong_lately >= WRONG_MAX:
        return Refused(f"{WRONG_MAX} wrong codes came within the hour: wait, then look at `microclaw pairing list`")
    if found is None:
        return Refused("there is no such code on this channel; `microclaw pairing list` shows those that wait")
    if answer == "revoke":
        if found.state in ("approved", "denied"):
            return "revoked"
        return Refused(f"nothing is to be taken back: the code is {_says(found, now_ms)}")
    if found.state != "pending":
        return Refused(f"it was answered before ({found.state}): a code is good for once")
    if now_ms >= found.expires_ms:
        return Refused("it has expired: whoever it was gets a new one by writing again")
    return "approved" if answer == "approve" else "denied"


def _says(found: Pairing, now_ms: int) -> str:
    return "expired" if found.state == "pending" and now_ms >= found.expires_ms else found.state


# --- words ---


def greeting(assistant: str, channel: str, code: str) -> str:
    """What a stranger is told, once for each code."""
    minutes = LIFE_MS // 60_000
    return (
        f"I am {assistant}, a personal assistant, and I don't know you yet. To be let in, tell my owner this code "
        f"within {minutes} minutes: {shown_code(code)}\n(Owner: microclaw pairing approve {channel} {shown_code(code)})"
    )


def announcement(channel: str, sender: str, name: str, code: str) -> str:
    """What the owner is told, once for each code."""
    code = shown_code(code)
    return (
        f"Somebody I don't know wrote to me on {channel}: {shown(name)} ({shown(sender)}). What they write is held.\n"
        f"Let them in: /pairing approve {channel} {code} — or not: /pairing deny {channel} {code}"
    )


WELCOME = "You are let in. I read what you wrote."


# --- the owner's word in a chat ---


@dataclass(frozen=True, slots=True)
class Typed:
    """`/pairing`, or `/pairing approve|deny|revoke CHANNEL CODE`."""

    answer: Answer | None = None
    channel: str = ""
    code: str = ""


_TYPED = re.compile(
    r"/pairing(?:@\S+)?(?:\s+list|\s+(?P<answer>approve|deny|revoke)\s+(?P<channel>[a-z][a-z0-9_]*)"
    r"\s+(?P<code>[A-Za-z0-9-]{8,9}))?\s*\Z",
    re.ASCII,
)


def read_typed(text: str) -> Typed | None:
    """The command that a whole message is; None = it is an ordinary message."""
    found = _TYPED.match(text.strip())
    if found is None:
        return None
    if found["answer"] is None:
        return Typed()
    code = read_code(found["code"])
    answer: Answer = "approve" if found["answer"] == "approve" else "deny" if found["answer"] == "deny" else "revoke"
    return None if code is None else Typed(answer, found["channel"], code)
