"""Markdown as Telegram shows it: its small HTML.

Telegram knows bold, italic, struck out, code, links and quotes; headings become bold, lists get bullets, tables keep
their shape in code. HTML that stands in the text is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape, unescape

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from microclaw.core.splitting import utf16_length

_PARSER = MarkdownIt("commonmark").enable(["strikethrough", "table"])
_TAGS = {"strong": "b", "em": "i", "s": "s"}
_TAG = re.compile(r"<[^>]*>")
_LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,40}\Z")
#: UTF-16 units of a text.
TEXT_MAX = 4096
#: Deeper than this nothing is told apart any more.
_DEPTH_MAX = 30


def to_html(markdown: str, shown_max: int) -> str:
    """The text as HTML; "" = it can't be shown so (nothing is left of it, or more than `shown_max` UTF-16 units)."""
    html = _blocks(SyntaxTreeNode(_PARSER.parse(markdown)).children, "\n\n", 0)
    shown = unescape(_TAG.sub("", html))
    return html if shown.strip() and utf16_length(shown) <= shown_max else ""


def _blocks(nodes: Iterable[SyntaxTreeNode], between: str, depth: int, *, quoted: bool = False) -> str:
    return between.join(filter(None, (_block(node, depth, quoted=quoted) for node in nodes)))


def _block(node: SyntaxTreeNode, depth: int, *, quoted: bool) -> str:
    if depth > _DEPTH_MAX:
        return ""
    match node.type:
        case "paragraph":
            return _inline(node.children)
        case "heading":
            return f"<b>{_inline(node.children, bold=True)}</b>"
        case "fence" | "code_block":
            return _code(node.content, node.info.split()[0] if node.info.split() else "")
        case "blockquote":
            inside = _blocks(node.children, "\n\n", depth + 1, quoted=True)
            # Telegram has no quotes in quotes.
            return inside if quoted or not inside else f"<blockquote>{inside}</blockquote>"
        case "bullet_list" | "ordered_list":
            return _list(node, depth, quoted=quoted)
        case "table":
            return f"<pre>{escape(_table(node), quote=False)}</pre>"
        case "hr":
            return "———"
    return escape(node.content.strip(), quote=False)


def _list(node: SyntaxTreeNode, depth: int, *, quoted: bool) -> str:
    lines = []
    number = int(node.attrs.get("start", 1))
    for place, item in enumerate(node.children):
        mark = f"{number + place}. " if node.type == "ordered_list" else "• "
        parts = [_block(child, depth + 1, quoted=quoted) for child in item.children]
        first = parts[0] if parts else ""
        rest = [
            part if part.startswith("<pre>") else re.sub(r"^", "   ", part, flags=re.MULTILINE) for part in parts[1:]
        ]
        lines.append("\n".join([mark + first, *filter(None, rest)]))
    return "\n".join(lines)


def _code(text: str, language: str) -> str:
    inside = escape(text.rstrip("\n"), quote=False)
    if not inside.strip():
        return ""
    if _LANGUAGE.match(language):
        return f'<pre><code class="language-{language}">{inside}</code></pre>'
    return f"<pre>{inside}</pre>"


def _table(node: SyntaxTreeNode) -> str:
    rows = [
        [unescape(_TAG.sub("", _inline(cell.children))) for cell in row.children]
        for part in node.children for row in part.children
    ]
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


def _inline(nodes: Sequence[SyntaxTreeNode], *, bold: bool = False) -> str:
    return "".join(_span(node, bold) for node in nodes)


def _span(node: SyntaxTreeNode, bold: bool) -> str:
    match node.type:
        case "inline":
            return _inline(node.children, bold=bold)
        case "strong" if bold:
            return _inline(node.children, bold=True)
        case "strong" | "em" | "s":
            tag = _TAGS[node.type]
            inside = _inline(node.children, bold=bold or node.type == "strong")
            return f"<{tag}>{inside}</{tag}>" if inside else ""
        case "code_inline":
            return f"<code>{escape(node.content, quote=False)}</code>"
        case "link":
            return _link(str(node.attrs.get("href", "")), _inline(node.children, bold=bold))
        case "image":
            href = str(node.attrs.get("src", ""))
            return _link(href, escape(node.content or href, quote=False))
        case "softbreak" | "hardbreak":
            return "\n"
    return escape(node.content, quote=False)


def _link(href: str, shown: str) -> str:
    if not href.lower().startswith(("http://", "https://", "tg://", "mailto:", "tel:")):
        return shown
    return f'<a href="{escape(href)}">{shown or escape(href, quote=False)}</a>'
