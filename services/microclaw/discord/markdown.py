"""The agent's Markdown (CommonMark with tables) as Discord shows it: pure.

Discord reads nearly the same. What it would show wrongly is changed, everything else stays as it was written: tables
become aligned text, headings of the lower levels bold lines, rules a line, images links, `__bold__` (underlined there)
`**bold**`, and two bars (a spoiler there) plain bars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_RULE = "———"
_CODE_SPAN = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", re.S)
_IMAGE = re.compile(r"!\[(?P<alt>[^\]\n]*)\]\((?P<url>[^()\s]+)(?:\s+\"[^\"\n]*\")?\)")
_BOLD = re.compile(r"(?<![\w\\])__(?=\S)(?P<inside>.+?)(?<=[^\s\\])__(?!\w)", re.S)
_BARS = re.compile(r"(?<!\\)\|\|")
#: Discord has three levels of headings.
_LEVELS = 3

_parser = MarkdownIt("commonmark").enable("table")


@lru_cache(maxsize=8)
def discord_markdown(text: str) -> str:
    """The text for Discord. Kept for a few texts: splitting measures the same ones again and again."""
    lines = text.split("\n")
    changed: list[tuple[int, int, list[str]]] = []
    tokens = _parser.parse(text)
    table_end = 0
    for index, token in enumerate(tokens):
        if token.map is None or token.map[0] < table_end:
            continue
        start, end = token.map
        replacement = _replacement(tokens, index, lines[start:end])
        if replacement is not None:
            changed.append((start, end, replacement))
            table_end = end if token.type != "inline" else table_end
    for start, end, replacement in reversed(changed):
        lines[start:end] = replacement
    return "\n".join(lines)


def _replacement(tokens: Sequence[Token], index: int, lines: list[str]) -> list[str] | None:
    """What stands for these lines of a block; None = they stay."""
    token = tokens[index]
    match token.type:
        # Inside a quote or a list the lines begin with its marks: left as they are.
        case "table_open" if token.level == 0:
            return _table(tokens[index:])
        case "hr" if token.level == 0:
            return [_RULE]
        case "heading_open" if token.level == 0 and (token.markup in "=-" or int(token.tag[1]) > _LEVELS):
            return _heading(int(token.tag[1]), tokens[index + 1].content)
        case "inline":
            return _outside_code("\n".join(lines), _inline).split("\n")
    return None


def _heading(level: int, content: str) -> list[str]:
    text = _outside_code(" ".join(content.split("\n")), _inline)
    return [f"{'#' * level} {text}" if level <= _LEVELS else f"**{text.replace('**', '')}**"]


def _inline(text: str) -> str:
    text = _IMAGE.sub(lambda found: f"[{found['alt'] or found['url']}]({found['url']})", text)
    text = _BOLD.sub(r"**\g<inside>**", text)
    return _BARS.sub(r"\\|\\|", text)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    done: list[str] = []
    at = 0
    for span in _CODE_SPAN.finditer(text):
        done += [change(text[at:span.start()]), span[0]]
        at = span.end()
    return "".join([*done, change(text[at:])])


def _table(tokens: Sequence[Token]) -> list[str]:
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(_plain(tokens[index + 1]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["```", shown[0], "  ".join("─" * width for width in widths), *shown[1:], "```"]


def _plain(cell: Token) -> str:
    """A cell's text without marks, and without what would end the code block around it."""
    texts = [
        child.content or (child.children[0].content if child.type == "image" and child.children else "")
        for child in cell.children or ()
    ]
    return "".join(texts).replace("```", "'''")
