"""Markdown (CommonMark, as agents write it) as plain text that reads well where nothing is formatted."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token

_BULLET = "• "
_INDENT = "   "
_RULE = "———"
_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def plain_text(markdown: str) -> str:
    """The text without marks: lists keep bullets and numbers, links their address, code its lines."""
    return _Writer().written(_PARSER.parse(markdown))


class _Writer:
    def __init__(self) -> None:
        self._blocks: list[str] = []
        #: Open lists: the next number, or None for bullets.
        self._lists: list[int | None] = []
        self._marker = ""
        self._quotes = 0
        #: In a list whose items are one line each.
        self._tight = False
        #: The next block is the first one of a list that stands in no other.
        self._list_begins = False
        #: The cells of a table's row so far; None = in no row.
        self._row: list[str] | None = None

    def written(self, tokens: list[Token]) -> str:
        for token in tokens:
            # A token without a method here has nothing to say of its own.
            if (method := getattr(self, f"_{token.type}", None)) is not None:
                method(token)
        return "".join(self._blocks).strip("\n")

    def _bullet_list_open(self, _token: Token) -> None:
        self._begin_list(None)

    def _ordered_list_open(self, token: Token) -> None:
        self._begin_list(int(token.attrGet("start") or 1))

    def _begin_list(self, number: int | None) -> None:
        self._list_begins = not self._lists
        self._lists.append(number)

    def _bullet_list_close(self, _token: Token) -> None:
        self._lists.pop()

    _ordered_list_close = _bullet_list_close

    def _list_item_open(self, _token: Token) -> None:
        self._marker = self._next_marker()

    def _blockquote_open(self, _token: Token) -> None:
        self._quotes += 1

    def _blockquote_close(self, _token: Token) -> None:
        self._quotes -= 1

    def _paragraph_open(self, token: Token) -> None:
        self._tight = token.hidden

    def _heading_open(self, _token: Token) -> None:
        self._tight = False

    def _tr_open(self, _token: Token) -> None:
        self._row = []

    def _tr_close(self, _token: Token) -> None:
        self._add(" | ".join(self._row or []), tight=True)
        self._row = None

    def _inline(self, token: Token) -> None:
        if self._row is not None:
            self._row.append(_text_of(token))
        else:
            self._add(_text_of(token), tight=self._tight)

    def _fence(self, token: Token) -> None:
        self._add(token.content.rstrip("\n"), tight=False)

    _code_block = _html_block = _fence

    def _hr(self, _token: Token) -> None:
        self._add(_RULE, tight=False)

    def _next_marker(self) -> str:
        number = self._lists[-1]
        if number is None:
            return _BULLET
        self._lists[-1] = number + 1
        return f"{number}. "

    def _add(self, text: str, *, tight: bool) -> None:
        depth = max(len(self._lists) - 1, 0)
        quote = "> " * self._quotes
        first = quote + _INDENT * depth + self._marker
        rest = quote + (_INDENT * depth + " " * len(self._marker) if self._lists else "")
        lines = text.split("\n")
        said = "\n".join([first + lines[0], *(f"{rest}{line}" for line in lines[1:])])
        self._marker = ""
        if self._blocks and (not tight or self._list_begins):
            self._blocks.append("\n")
        self._list_begins = False
        self._blocks.append(f"{said}\n")


def _text_of(token: Token) -> str:
    text: list[str] = []
    link = ""
    link_start = 0
    for child in token.children or []:
        match child.type:
            case "text" | "code_inline" | "html_inline":
                text.append(child.content)
            case "softbreak" | "hardbreak":
                text.append("\n")
            case "image":
                text.append(f"{child.content} ({child.attrGet('src')})" if child.content else str(child.attrGet("src")))
            case "link_open":
                link, link_start = str(child.attrGet("href") or ""), len(text)
            case "link_close":
                label = "".join(text[link_start:])
                if link and link not in (label, f"mailto:{label}"):
                    text.append(f" ({link})")
    return "".join(text)
