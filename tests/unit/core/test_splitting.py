"""Long texts in parts: nothing lost, nothing too long, no code fence cut open."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from microclaw.core.splitting import split_text, utf16_length

_words = st.text(alphabet="abc é😀", min_size=1, max_size=30)
_pieces = st.one_of(
    _words, st.just("\n\n"), st.just("\n"), st.just("```python\n"), st.just("\n```\n"), st.just("~~~\n"),
    st.just("- item\n"), st.just("x" * 200), st.just("    indented\n"), st.just("````\n"),
)
_texts = st.lists(_pieces, max_size=60).map("".join)


def fences_of(text: str) -> list[str]:
    return re.findall(r"(?m)^ {0,3}(?:`{3,}|~{3,})[^`\n]*$", text)


def without_fences_and_space(text: str) -> str:
    return re.sub(r"\s+", "", re.sub(r"(?m)^ {0,3}(?:`{3,}|~{3,})[^`\n]*$", "", text))


@example("x" * 200 + "```python\n", 100)
@given(_texts, st.integers(64, 400))
def test_no_part_is_too_long_or_blank_and_nothing_is_lost(text: str, limit: int) -> None:
    parts = split_text(text, limit)
    assert all(part.strip() and len(part) <= limit for part in parts)
    assert "".join(map(without_fences_and_space, parts)) == without_fences_and_space(text)


@given(_texts, st.integers(64, 400))
def test_parts_fit_by_the_platforms_own_measure(text: str, limit: int) -> None:
    assert all(utf16_length(part) <= limit for part in split_text(text, limit, utf16_length))


def open_fences(text: str) -> int:
    opened = ""
    for line in text.split("\n"):
        found = re.match(r" {0,3}(`{3,}|~{3,})([^`\n]*)\Z", line)
        if found and not opened:
            opened = found[1]
        elif found and found[1].startswith(opened) and not found[2].strip():
            opened = ""
    return bool(opened)


@given(st.lists(st.text(alphabet="ab \n", max_size=80), min_size=1, max_size=20), st.integers(64, 200))
def test_a_fence_is_closed_at_the_end_of_each_part_and_opened_again_in_the_next(code: list[str], limit: int) -> None:
    text = "before\n\n```python\n" + "\n".join(code) + "\n```\n\nafter"
    assert not any(open_fences(part) for part in split_text(text, limit))


def test_a_long_code_block_keeps_its_language_in_every_part() -> None:
    code = "\n".join(f"    line {number}" for number in range(40))
    parts = split_text(f"Look:\n\n```python\n{code}\n```", 200)
    assert len(parts) > 2
    assert all(part.startswith("```python\n") and part.endswith("\n```") for part in parts[1:])
    assert "".join(part.removeprefix("Look:\n\n").removeprefix("```python\n").removesuffix("```") for part in parts) \
        .replace("\n", "") == code.replace("\n", "")


def test_a_cut_is_made_between_paragraphs_if_that_is_good_enough() -> None:
    text = "a" * 50 + ".\n\n" + "b" * 30 + ". " + "c" * 30
    assert split_text(text, 90) == ["a" * 50 + ".", "b" * 30 + ". " + "c" * 30]


def test_a_text_that_fits_stays_whole() -> None:
    assert split_text("one\n\ntwo", 100) == ["one\n\ntwo"]
    assert split_text("", 100) == split_text(" \n ", 100) == []


def test_a_limit_that_nothing_fits_into_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        split_text("text", 10)


@pytest.mark.parametrize("text", [
    "`" * 50_000, "~" * 50_000, "```" + "x" * 50_000, "``` " + "x " * 30_000, "x" + "`" * 50_000,
    ("`" * 90 + "\n") * 500,
], ids=["backticks", "tildes", "a long opening line", "a long info string", "backticks behind", "many marks"])
def test_what_no_part_can_hold_is_cut_like_any_text_and_quickly(text: str) -> None:
    """It came as one message for each character, and took minutes."""
    began = time.monotonic()
    parts = split_text(text, 2_000)
    assert time.monotonic() - began < 5
    assert len(parts) < 80 and all(len(part) <= 2_000 for part in parts)
    assert sum(part.count("x") for part in parts) == text.count("x")
