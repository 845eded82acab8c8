"""What somebody wants found among past messages, as the index understands it: pure.

Nothing of what is asked is ever the index's own syntax: words are taken out of the text and quoted.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

#: Of a query, characters and words; what is beyond them is refused, not cut.
QUERY_CHARS_MAX = 500
WORDS_MAX = 16
#: Messages in one answer, and characters shown of one.
HITS_MAX = 50
EXCERPT_CHARS = 400

#: In double quotes: side by side in that order.
_PHRASE = re.compile(r'"([^"]*)"')
#: What the index takes for words: letters, digits and marks of any script.
_WORD = re.compile(r"[^\W_]+")
#: Scripts that put no blanks between words: the index can't tell their words apart, so they are looked for as they are.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Query:
    """All of it must be in a message (or the sender's name)."""

    #: The index's expression; "" = nothing for the index.
    match: str = ""
    #: Pieces that must be in the text as they are, as patterns of `LIKE … ESCAPE '\\'`.
    like: tuple[str, ...] = ()
    #: Everything that is looked for, for showing where it is.
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unsearchable:
    """Why it can't be looked for."""

    reason: str


def read_query(text: str) -> Query | Unsearchable:
    """The query that this text is: words (the beginning of one is enough), and phrases in double quotes."""
    if len(text) > QUERY_CHARS_MAX:
        return Unsearchable(f"the query is longer than {QUERY_CHARS_MAX} characters: give the words that matter")
    match: list[str] = []
    like: list[str] = []
    words: list[str] = []
    rest = text
    for phrase in _PHRASE.findall(text):
        rest = rest.replace(f'"{phrase}"', " ", 1)
        _take(phrase, match, like, words, is_phrase=True)
    _take(rest, match, like, words, is_phrase=False)
    if not words:
        return Unsearchable("there is no word to look for in the query")
    if len(words) > WORDS_MAX:
        return Unsearchable(f"the query has more than {WORDS_MAX} words: give those that matter")
    return Query(" ".join(match), tuple(like), tuple(words))


def _take(text: str, match: list[str], like: list[str], words: list[str], *, is_phrase: bool) -> None:
    found = _WORD.findall(unicodedata.normalize("NFC", text))
    words += found
    like += [f"%{_literal(word)}%" for word in found if _UNSPACED.search(word)]
    indexed = [word for word in found if not _UNSPACED.search(word)]
    if is_phrase and len(indexed) == len(found):
        match += [f'"{" ".join(indexed)}"'] if indexed else []
    else:
        match += [f'"{word}"*' for word in indexed]


def _literal(word: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", word)


def excerpt(text: str, words: tuple[str, ...], chars: int = EXCERPT_CHARS) -> str:
    """As much of the text as is shown, around the first of the words that is in it."""
    if len(text) <= chars:
        return text
    lowered = text.lower()
    places = [place for word in words if (place := lowered.find(word.lower())) >= 0]
    begin = max(0, min(min(places, default=0) - chars // 4, len(text) - chars))
    end = begin + chars
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"
