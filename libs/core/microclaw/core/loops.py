"""Two programs that answer each other for ever: when to stop. Pure.

Counted are alternations: we answered, and at once something came back. A sender that its platform calls a program gets
few of them; one that only behaves like one (it answers faster than anybody reads) gets more. A person's word, the
owner's, or a long silence begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

#: Alternations with a program, and with somebody who is as quick as one.
BOT_TURNS_MAX = 5
QUICK_TURNS_MAX = 15
#: Nobody reads an answer and writes another one within this, many times in a row.
QUICK_MS = 3_000
#: After so much silence it is another conversation: with a program, and with anybody else.
CALM_MS = 10 * 60 * 1000
PAUSE_MS = 60 * 1000


class Turn(StrEnum):
    """What becomes of a message that would wake the agent."""

    GO = "go"
    #: It is a loop: it does not wake, and the owner is told.
    STOP = "stop"
    #: It is still that loop.
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Talk:
    """What is remembered of a chat."""

    heard_ms: int = 0
    replied_ms: int = 0
    bot_turns: int = 0
    quick_turns: int = 0
    stopped: bool = False


def replied(talk: Talk, *, now_ms: int) -> Talk:
    """We said something in the chat."""
    return replace(talk, replied_ms=now_ms)


def heard(
    talk: Talk, *, from_bot: bool, is_group: bool, is_owner: bool, now_ms: int
) -> tuple[Talk, Turn]:
    """Somebody wrote something that would wake the agent. How quick somebody is counts in direct chats alone."""
    answers_us = talk.replied_ms != 0 and talk.replied_ms >= talk.heard_ms
    quick = not is_group and answers_us and now_ms - talk.replied_ms <= QUICK_MS
    calm_ms = CALM_MS if from_bot else PAUSE_MS
    by_a_person = not from_bot and not quick and (talk.quick_turns < QUICK_TURNS_MAX or not talk.stopped)
    if is_owner or by_a_person or now_ms - max(talk.heard_ms, talk.replied_ms) >= calm_ms:
        return Talk(heard_ms=now_ms), Turn.GO
    now = replace(
        talk, heard_ms=now_ms, bot_turns=talk.bot_turns + (from_bot and answers_us),
        quick_turns=talk.quick_turns + quick,
    )
    if talk.stopped:
        return now, Turn.STOPPED
    if now.bot_turns >= BOT_TURNS_MAX or now.quick_turns >= QUICK_TURNS_MAX:
        return replace(now, stopped=True), Turn.STOP
    return now, Turn.GO
