"""What is typed becomes words for the index, never its syntax."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.search import EXCERPT_CHARS, QUERY_CHARS_MAX, WORDS_MAX, Query, Unsearchable, excerpt, read_query


@pytest.mark.parametrize(("text", "match", "like"), [
    ("pizza Friday", '"pizza"* "Friday"*', ()),
    ('"red wine" list', '"red wine" "list"*', ()),
    ("it's NEAR(a b) OR -x*", '"it"* "s"* "NEAR"* "a"* "b"* "OR"* "x"*', ()),
    ("text:secret^2", '"text"* "secret"* "2"*', ()),
    ("ピザ pizza", '"pizza"*', ("%ピザ%",)),
    ("snake_case", '"snake"* "case"*', ()),
    ('"', "", ()),
])
def test_words_are_taken_out_and_quoted(text: str, match: str, like: tuple[str, ...]) -> None:
    query = read_query(text)
    if match or like:
        assert isinstance(query, Query) and (query.match, query.like) == (match, like)
    else:
        assert isinstance(query, Unsearchable)


@pytest.mark.parametrize("text", ["", "  ", "*", '""', "%_", "x" * (QUERY_CHARS_MAX + 1), "a " * (WORDS_MAX + 1)])
def test_what_can_not_be_looked_for_is_refused_in_one_line(text: str) -> None:
    refused = read_query(text)
    assert isinstance(refused, Unsearchable) and refused.reason.isprintable()


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from('"*:^()-+{}NEAR OR AND NOT \u0000')), max_size=80))
def test_no_text_is_an_error_of_the_index(text: str) -> None:
    query = read_query(text)
    if isinstance(query, Query) and query.match:
        with sqlite3.connect(":memory:") as db:
            db.execute("CREATE VIRTUAL TABLE s USING fts5(text, tokenize='unicode61 remove_diacritics 2')")
            db.execute("SELECT * FROM s WHERE s MATCH ?", (query.match,)).fetchall()
        db.close()


def test_a_long_text_is_shown_around_the_hit() -> None:
    assert excerpt("short", ("x",)) == "short"
    text = "a" * 1000 + " Needle " + "b" * 1000
    shown = excerpt(text, ("needle",))
    assert "Needle" in shown and shown[0] == shown[-1] == "…" and len(shown) == EXCERPT_CHARS + 2
    assert excerpt("b" * 1000, ("zzz",)).startswith("bbb")
