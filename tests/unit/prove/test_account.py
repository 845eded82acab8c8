"""The accountant finds what was lost, doubled or reordered, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.prove.account import Account, account, missing, total

TOKENS = st.lists(st.integers(0, 10_000).map(str), unique=True, min_size=2, max_size=40)


@given(TOKENS)
def test_all_once_in_order_is_well(tokens: list[str]) -> None:
    found = account(tokens, tokens)
    assert found == Account(accepted=len(tokens), answered=len(tokens))
    assert found.well


@given(TOKENS, st.data())
def test_whatever_is_left_out_is_lost(tokens: list[str], data: st.DataObject) -> None:
    gone = set(data.draw(st.lists(st.sampled_from(tokens), min_size=1)))
    seen = [token for token in tokens if token not in gone]
    found = account(tokens, seen)
    assert (found.lost, found.doubled, found.reordered, found.strange) == (len(gone), 0, 0, 0)
    assert not found.well
    assert set(missing(tokens, seen)) == gone


@given(TOKENS, st.data())
def test_whatever_comes_again_is_doubled_wherever_it_comes(tokens: list[str], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(tokens), min_size=1, max_size=5))
    seen = list(tokens)
    for token in again:
        seen.insert(data.draw(st.integers(tokens.index(token) + 1, len(seen))), token)
    found = account(tokens, seen)
    assert found.doubled == len(again)
    assert found.lost == found.strange == 0
    assert not found.well


@given(TOKENS, st.data())
def test_one_that_comes_after_a_later_one_is_reordered(tokens: list[str], data: st.DataObject) -> None:
    early = data.draw(st.integers(0, len(tokens) - 2))
    late = data.draw(st.integers(early + 1, len(tokens) - 1))
    seen = [token for token in tokens if token != tokens[early]]
    seen.insert(late, tokens[early])
    found = account(tokens, seen)
    assert (found.lost, found.doubled, found.reordered) == (0, 0, 1)
    assert not found.well
    assert account(tokens, seen, ordered=False).well


@given(TOKENS)
def test_what_nobody_sent_is_strange(tokens: list[str]) -> None:
    found = account(tokens, [*tokens, "nobody's"])
    assert found.strange == 1
    assert not found.well


@given(TOKENS, TOKENS)
def test_streams_add_up(one: list[str], other: list[str]) -> None:
    both = total({"one": account(one, one[1:]), "other": account(other, other * 2)})
    assert (both.accepted, both.lost, both.doubled) == (len(one) + len(other), 1, len(other))


def test_traffic_that_is_not_numbered_is_refused() -> None:
    with pytest.raises(ValueError, match="accepted twice"):
        account(["a", "a"], ["a"])
