"""Markdown as plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.channel.plain_text import plain_text


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("Just *one* **line** with `code`.", "Just one line with code."),
        ("# Title\n\nText", "Title\n\nText"),
        ("- one\n- two\n  - deep\n- three", "• one\n• two\n   • deep\n• three"),
        ("Both:\n- one\n- two\n\nEnd.", "Both:\n\n• one\n• two\n\nEnd."),
        ("3. three\n4. four", "3. three\n4. four"),
        ("See [the page](https://example.org/a) or <https://example.org>.",
         "See the page (https://example.org/a) or https://example.org."),
        ("```python\nif a:\n    b()\n```", "if a:\n    b()"),
        ("> said\n> before\n\nnow", "> said\n> before\n\nnow"),
        ("a | b\n--|--\n1 | 2", "a | b\n1 | 2"),
        ("one  \ntwo\nthree", "one\ntwo\nthree"), ("~~gone~~", "gone"), ("a\n\n---\n\nb", "a\n\n———\n\nb"),
        ("![cat](https://example.org/c.png)", "cat (https://example.org/c.png)"),
        ("1 < 2 & 3 > 2", "1 < 2 & 3 > 2"), ("", ""),
    ],
)
def test_it_reads_as_a_person_would_write_it(markdown: str, plain: str) -> None:
    assert plain_text(markdown) == plain


@given(st.text(alphabet="ab \n", max_size=200))
def test_plain_words_stay_the_same_words(text: str) -> None:
    assert plain_text(text).split() == text.split()


@given(st.text(max_size=300))
def test_any_text_is_taken(text: str) -> None:
    plain_text(text)
