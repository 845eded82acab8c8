"""The states of a part: what may follow what, and what becomes of the whole reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.delivery import NEXT, Age, IllegalStep, PartState, is_late, is_over, outcome, step

AGE = Age(late_after_ms=60_000, expire_after_ms=600_000)


@given(st.sampled_from(PartState), st.sampled_from(PartState))
def test_a_step_is_taken_or_refused_with_what_was_expected_and_found(before: PartState, after: PartState) -> None:
    if after in NEXT[before]:
        assert step(before, after) is after
    else:
        with pytest.raises(IllegalStep, match=f"{before} can't become {after}"):
            step(before, after)


def test_nothing_follows_an_end_and_sending_is_never_begun_twice_in_a_row() -> None:
    assert all(not NEXT[state] for state in PartState if state.is_final)
    assert PartState.SENDING not in NEXT[PartState.SENDING]


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["sent", "sent"], "sent"), (["sent", "uncertain", "failed"], "uncertain"), (["sent", "failed"], "failed"),
        (["expired", "expired"], "expired"), (["sent", "expired"], "failed"), ([], "failed"),
    ],
)
def test_the_worst_that_the_person_may_notice_counts(states: list[str], whole: str) -> None:
    assert outcome(map(PartState, states)) == whole


def test_a_reply_is_over_by_its_own_bound_or_the_channels() -> None:
    assert not is_over(0, 0, AGE, 600_000)
    assert is_over(0, 0, AGE, 600_001)
    assert is_over(0, 500, AGE, 500)
    assert not is_late(0, AGE, 60_000) and is_late(0, AGE, 60_001)
