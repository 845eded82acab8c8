"""Whatever the agent writes, Telegram takes its HTML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.telegram_server import shown

from microclaw.telegram.formatting import to_html

PIECES = st.sampled_from([
    "**", "*", "_", "`", "```", "~~", "\n", "\n\n", "> ", "- ", "1. ", "# ", "[", "](", ")", "https://x.test", "<b>",
    "</b>", "<!--", "-->", "&amp;", "&", "<", ">", "|", "|-|-|\n", "word", " ", "    ", "![", "😀", "\t", "---", '"',
])


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80))
def test_any_text_becomes_html_that_telegram_takes(markdown: str) -> None:
    html = to_html(markdown, 4096)
    if html:
        assert shown(html).strip()


@pytest.mark.parametrize(("markdown", "html"), [
    ("a **b** _c_ ~~d~~ `e<f`", "a <b>b</b> <i>c</i> <s>d</s> <code>e&lt;f</code>"),
    ("# A **b**\n\ntext", "<b>A b</b>\n\ntext"),
    ("1. one\n   - two\n2. three", "1. one\n   • two\n2. three"),
    ("> a\n> > b\n\nc", "<blockquote>a\n\nb</blockquote>\n\nc"),
    ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
    ("[x](javascript:alert) [y](https://y.test)", '[x](javascript:alert) <a href="https://y.test">y</a>'),
    ("| a | bb |\n|---|---|\n| ccc | d |", "<pre>a   | bb\n----+---\nccc | d</pre>"),
    ("line\nline\\\nline", "line\nline\nline"),
    ("---", "———"),
    ("```\n\n```", ""),
])
def test_markdown_becomes_html(markdown: str, html: str) -> None:
    assert to_html(markdown, 4096) == html


def test_what_would_be_longer_than_telegram_takes_is_not_converted() -> None:
    assert to_html("a" * 101, 100) == ""
    assert to_html("😀" * 51, 100) == ""
    assert to_html("**" + "a" * 100 + "**", 100) != ""
