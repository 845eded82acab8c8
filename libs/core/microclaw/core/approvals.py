"""What needs the owner's yes, and what becomes of it: pure.

An approval is bound to exactly one action by a hash over its fields; anything else, be it one letter of a message's
text, is another action and needs another yes. The first valid answer counts, and none after the expiry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

#: Characters of codes: no 0 and O, no 1 and I, so that a code can be read aloud. 32 of them: five bits each.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
CODE_CHARS = 8
#: Random bytes that make a code.
CODE_BYTES = 5
#: Waiting for an answer at the same time, per group: a flood of questions would teach the owner to say yes.
PENDING_MAX = 5
#: Questions of one group within a day.
ASKED_PER_DAY_MAX = 50
DAY_MS = 24 * 3600 * 1000

Kind = Literal["host", "message", "task", "command", "memory"]
#: pending → once → used; pending → always → revoked; pending → denied.
State = Literal["pending", "once", "always", "used", "denied", "revoked"]
Answer = Literal["once", "always", "deny"]

#: What a person sees of each kind.
_SAYS = {
    "host": "wants to reach {target}, which no rule lets it; a yes is for pages and programs, not for WebSockets",
    "message": "wants to write to {target} for the first time",
    "task": "wants to have a task answer in {target}, where nobody ever wrote",
    "command": "wants to run this in its sandbox ({target})",
    "memory": "wants to remember, in {target}, what came from others than you",
}


#: Whose `always` holds for all that goes to the same target; the others' for exactly what was shown.
FOR_THE_TARGET: frozenset[Kind] = frozenset({"message", "task", "memory"})


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would be done: all of it, as it would be done."""

    kind: Kind
    #: The folder of the group whose agent wants it, by the host's own knowledge.
    group: str
    #: `host:port`, or a chat's address; for a command, why it needs a yes; a memory file as `folder/name` (for days'
    #: notes, their folder).
    target: str
    #: The text of the message; prompt and schedule of the task; the command; what a memory file would lose and gain;
    #: "" for a host.
    detail: str = ""


def action_hash(action: Action) -> bytes:
    """Its 32-byte name: different for any two actions. Lengths are part of it, so that fields can't run together."""
    canonical = msgspec.msgpack.encode(
        ("microclaw.approval.1", action.kind, action.group, action.target, action.detail)
    )
    return hashlib.blake2b(canonical, digest_size=32).digest()


def code_from(randomness: bytes) -> str:
    """The code that these `CODE_BYTES` random bytes mean."""
    if len(randomness) != CODE_BYTES:
        raise ValueError(f"a code is made of {CODE_BYTES} bytes, not {len(randomness)}")
    number = int.from_bytes(randomness, "big")
    return "".join(ALPHABET[number >> 5 * place & 31] for place in range(CODE_CHARS))


def read_code(text: str) -> str | None:
    """The code that somebody typed (case, a dash in the middle and blanks don't matter), None = it is none."""
    code = text.strip().upper().replace("-", "")
    return code if len(code) == CODE_CHARS and all(char in ALPHABET for char in code) else None


def shown_code(code: str) -> str:
    """As people read it: `ABCD-EFGH`."""
    return f"{code[:4]}-{code[4:]}"


@dataclass(frozen=True, slots=True)
class Asked:
    """An approval as it stands."""

    state: State
    expires_ms: int
    #: Which doing of the action used the yes for once; "" = none yet.
    used_by: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer does not count, and why."""

    reason: str


def answered(asked: Asked | None, answer: Answer, *, now_ms: int) -> State | Refused:
    """The state after this answer."""
    if asked is None:
        return Refused("there is no such code; `microclaw approvals list` shows those that wait")
    if asked.state != "pending":
        return Refused(f"it was answered before ({asked.state}): the first answer counts")
    if now_ms >= asked.expires_ms:
        return Refused("it has expired; if it is still wanted it will be asked again, under a new code")
    return "denied" if answer == "deny" else answer


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether it may be done now. `use`: this doing uses the yes up. `ask`: the owner is to be asked."""

    allowed: bool
    use: bool = False
    ask: bool = False
    #: The answer was no, not long ago.
    denied: bool = False


def rule(found: Asked | None, use_id: str, *, now_ms: int) -> Ruling:
    """What the newest approval of exactly this action says to the doing called `use_id`.

    The same doing again (after a crash) is still that one time.
    """
    if found is None:
        return Ruling(False, ask=True)
    if found.state == "always":
        return Ruling(True)
    if found.state == "used" and found.used_by == use_id:
        return Ruling(True)
    if now_ms >= found.expires_ms or found.state in ("used", "revoked"):
        return Ruling(False, ask=True)
    if found.state == "once":
        return Ruling(True, use=True)
    return Ruling(False, denied=found.state == "denied")


def may_ask(pending: int, asked_today: int) -> bool:
    """Whether this group may ask the owner one more thing."""
    return pending < PENDING_MAX and asked_today < ASKED_PER_DAY_MAX


def question(action: Action, code: str) -> str:
    """What the owner is told: exactly what would be done, then how to answer."""
    says = _SAYS[action.kind].format(target=action.target)
    # Fenced, line by line: what an agent wrote must not look like the house's own words.
    detail = "".join(f"\n> {line}" for line in _visible(action.detail).split("\n")) if action.detail else ""
    always = f"\n(always: every later change of {action.target} by this group)" if action.kind == "memory" else ""
    return (
        f"Group {action.group} {says}.{detail}\n"
        f"Allow it? /approve {shown_code(code)} once — /approve {shown_code(code)} always — /deny {shown_code(code)}"
        f"{always}"
    )


def needs_yes_to_write(chat: str, own_chat: str, *, is_heard: bool) -> bool:
    """Whether writing to `chat` is a first contact: not the run's own chat, and nobody who may speak ever wrote
    there (`requests.KnownChat.is_heard`)."""
    return chat != own_chat and not is_heard


# --- commands in the owner's chat ---


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """`/approve CODE once|always` or `/deny CODE`."""

    code: str
    answer: Answer


_COMMAND = re.compile(
    r"/(?P<verb>approve|deny)\s+(?P<code>[A-Za-z0-9-]{8,9})(?:\s+(?P<how>once|always|deny))?", re.ASCII
)


def read_answer(text: str) -> ChatAnswer | None:
    """The answer that a whole message is; None = it is an ordinary message."""
    found = _COMMAND.fullmatch(text.strip())
    code = read_code(found["code"]) if found else None
    if found is None or code is None or (found["verb"] == "deny" and found["how"] not in (None, "deny")):
        return None
    how: Answer = "deny" if found["verb"] == "deny" or found["how"] == "deny" else (
        "always" if found["how"] == "always" else "once"
    )
    return ChatAnswer(code, how)


def _visible(text: str) -> str:
    """The text with what would not be seen made visible."""
    return "".join(
        char if char.isprintable() or char == "\n" else f"\\u{{{ord(char):x}}}" for char in text
    )
