"""Cutting a long text into parts that a platform takes.

Cuts are made where they hurt least: between paragraphs, else lines, sentences, words, and only then inside a word. A
fenced code block (CommonMark, section 4.5) is never cut open: a part that ends inside one closes the fence, and the
next part opens it again with the same info string.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

#: Below this no sensible cut can be made: a fence line and one character must fit.
LIMIT_MIN = 64

_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)\Z")
#: Where to cut, best first: the cut comes after what is found.
_PLACES = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n"), re.compile(r"(?<=[.!?…])\s+"), re.compile(r"\s+"))
#: A cut of a better kind is taken only if the part keeps at least this share of the limit.
_FULL_ENOUGH = 0.4


@dataclass(frozen=True, slots=True)
class _Fence:
    mark: str
    #: The whole opening line.
    line: str


def utf16_length(text: str) -> int:
    """UTF-16 code units, which is what Telegram counts."""
    return len(text) + sum(1 for char in text if ord(char) > 0xFFFF)


def split_text(text: str, limit: int, measure: Callable[[str], int] = len) -> list[str]:
    """The text in parts of at most `limit` by `measure` (characters, or `utf16_length`), none of them blank.

    Nothing is lost but white space at the cuts; what is added are fence lines.

    :raises ValueError: `limit` is below `LIMIT_MIN`.
    """
    if limit < LIMIT_MIN:
        raise ValueError(f"a limit of {limit} is too small to cut by: at least {LIMIT_MIN}")
    parts: list[str] = []
    rest = text.strip("\n")
    opened: _Fence | None = None
    while rest.strip():
        head = f"{opened.line}\n" if opened else ""
        if measure(head + rest) <= limit:
            parts.append((head + rest).rstrip())
            break
        cut = _cut(rest, head, limit, measure)
        piece, rest = rest[:cut], rest[cut:]
        still_open = _open_at_end(piece, opened)
        body = (head + piece).rstrip()
        # A part that would be nothing but an opened fence says nothing.
        if body.strip() and body != head.rstrip():
            parts.append(f"{body}\n{still_open.mark}" if still_open else body)
        opened = still_open
        # Inside code the indentation of the next line belongs to it.
        rest = rest.lstrip("\n") if opened else rest.lstrip()
    return parts


def _cut(rest: str, head: str, limit: int, measure: Callable[[str], int]) -> int:
    """How many characters of `rest` go into the next part: at least one."""
    # Room for the closing fence is kept wherever one could be open.
    marks = [found["mark"] for line in rest[:limit].split("\n") if (found := _FENCE.match(line))]
    reserve = max((len(mark) for mark in [*marks, head.strip()[:1] * _run(head)]), default=0)
    room = limit - measure(head) - (reserve + 1 if reserve else 0)
    longest = _fitting(rest, max(room, 1), measure)
    for place in _PLACES:
        ends = [found.end() for found in place.finditer(rest, 0, longest)]
        # The cut may also be right behind the longest piece.
        if longest < len(rest) and place.match(rest, longest):
            ends.append(longest)
        good = [end for end in ends if end >= longest * _FULL_ENOUGH and not _tears(rest, end)]
        if good:
            return good[-1]
    while longest > 1 and _tears(rest, longest):
        longest -= 1
    return longest


def _run(head: str) -> int:
    """How many characters the mark of an opened fence has."""
    found = _FENCE.match(head.rstrip("\n")) if head else None
    return len(found["mark"]) if found else 0


def _fitting(text: str, room: int, measure: Callable[[str], int]) -> int:
    """The longest beginning of `text` that measures at most `room`; at least one character."""
    low, high = 1, min(len(text), room)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(text[:middle]) <= room else (low, middle - 1)
    return low


def _tears(text: str, cut: int) -> bool:
    """Whether a cut inside a line would break a fence line, or make one of what follows."""
    start = text.rfind("\n", 0, cut) + 1
    if start == cut:
        return False
    end = text.find("\n", cut)
    end = end if end >= 0 else len(text)
    return bool(_FENCE.match(text[start:end]) or _FENCE.match(text[cut:end].lstrip()))


def _open_at_end(piece: str, opened: _Fence | None) -> _Fence | None:
    """The fence that is open after `piece`, if `opened` was before it."""
    for line in piece.split("\n"):
        found = _FENCE.match(line)
        if found is None:
            continue
        if opened is None:
            opened = _Fence(found["mark"], line.strip())
        elif found["mark"].startswith(opened.mark) and not found["info"].strip():
            opened = None
    return opened
