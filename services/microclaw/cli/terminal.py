"""Texts of others on a terminal: what it would obey is taken out, and columns are as wide as they look."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """`text` without what a terminal would obey: an agent's words must not move the cursor or set the clipboard."""
    if text.isascii() and text.isprintable():
        return text  # nearly always, and quick to see
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        or character in "\u200c\u200d" else "\ufffd"
        for character in text.replace("\r\n", "\n")
    )


def one_line(text: str) -> str:
    """`printable`, with every break of a line a space."""
    return " ".join(printable(text).splitlines()).replace("\t", " ")


def columns(text: str) -> int:
    """How many columns of a terminal a line takes: Chinese signs and emoji two, marks on a letter none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def padded(text: str, width: int) -> str:
    """`text` with spaces behind it until it takes `width` columns."""
    return text + " " * (width - columns(text))
