"""Cutting a long text into parts that a platform takes.

Cuts are made where they hurt least: between paragraphs, else lines, sentences, words, and only then inside a word. A
fenced code block (CommonMark, section 4.5) is never cut open: a part that ends inside one closes the fence, and the
next part opens it again with the same info string. What no part can hold (a mark of hundreds of backticks, a line
longer than a part) is text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

#: Below this no sensible cut can be made: a fence line and one character must fit.
LIMIT_MIN = 64

#: A longer opening line is opened again without its info string. With the closing mark it fits into `LIMIT_MIN`.
_LINE_CHARS_MAX = 40

_FENCE = re.compile(r" {0,3}(?P<mark>`{3,8}(?!`)|~{3,8}(?!~))(?P<info>[^`\n]*)\Z")
#: Where to cut, best first: the cut comes after what is found.
_PLACES = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n"), re.compile(r"(?<=[.!?…])\s+"), re.compile(r"\s+"))
#: So many times the limit measure more than it, however the platform counts.
_SURELY_MORE = 4
#: Where a text measures more than its length, this share of a part may be left empty.
_SLACK = 32
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
        # Its beginning first: to measure all of a long text for each part would take as long as the text's square.
        if measure(head + rest[:_SURELY_MORE * limit]) <= limit and measure(head + rest) <= limit:
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
        for end in reversed(ends):
            if end < longest * _FULL_ENOUGH:
                break
            if not _tears(rest, end, limit):
                return end
    while longest > 1 and _tears(rest, longest, limit):
        longest -= 1
    return longest


def _run(head: str) -> int:
    """How many characters the mark of an opened fence has."""
    found = _FENCE.match(head.rstrip("\n")) if head else None
    return len(found["mark"]) if found else 0


def _fitting(text: str, room: int, measure: Callable[[str], int]) -> int:
    """A beginning of `text` that measures at most `room`, hardly shorter than the longest; at least one character."""
    fits, high = 1, min(len(text), room)
    if (size := measure(text[:high])) <= room:
        return high
    # Mostly a text is as dense here as there; to measure may be dear.
    middle = high * room // size
    while high - fits > max(1, room // _SLACK):
        middle = min(max(middle, fits + 1), high - 1)
        fits, high = (middle, high) if measure(text[:middle]) <= room else (fits, middle)
        middle = (fits + high) // 2
    return fits


def _tears(text: str, cut: int, limit: int) -> bool:
    """Whether a cut inside a line would break a fence line, or make one of what follows. A line longer than `limit` has
    to be cut somewhere."""
    start = text.rfind("\n", 0, cut) + 1
    if start == cut:
        return False
    end = text.find("\n", cut, cut + limit + 1)
    if end < 0:
        if len(text) - cut > limit:
            return False
        end = len(text)
    whole = end - start <= limit and _FENCE.match(text[start:end])
    return bool(whole or _FENCE.match(text[cut:end].lstrip()))


def _open_at_end(piece: str, opened: _Fence | None) -> _Fence | None:
    """The fence that is open after `piece`, if `opened` was before it."""
    for line in piece.split("\n"):
        found = _FENCE.match(line)
        if found is None:
            continue
        if opened is None:
            whole = line.strip()
            opened = _Fence(found["mark"], whole if len(whole) <= _LINE_CHARS_MAX else found["mark"])
        elif found["mark"].startswith(opened.mark) and not found["info"].strip():
            opened = None
    return opened
