"""The same seed is the same trial."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from microclaw.prove.plan import POINTS, SERVICES, WEIGHTS, plan


@given(st.integers(0, 1 << 31))
def test_a_seed_gives_the_same_acts_again(seed: int) -> None:
    assert plan(seed, 50) == plan(seed, 50)


@given(st.integers(0, 1 << 31), st.integers(1, 40))
def test_more_rounds_begin_like_fewer(seed: int, rounds: int) -> None:
    assert plan(seed, 60)[:rounds] == plan(seed, rounds)


def test_many_rounds_have_every_kind_of_act_on_every_service() -> None:
    rounds = plan(1, 2_000)
    assert set(Counter(turn.act.kind for turn in rounds)) == set(WEIGHTS)
    for kind in ("kill", "stop", "restart"):
        assert {turn.act.target for turn in rounds if turn.act.kind == kind} == set(SERVICES)
    for kind in ("broker-at", "power-cut"):
        assert {turn.act.point for turn in rounds if turn.act.kind == kind} == set(POINTS)


def test_what_cannot_be_done_is_not_planned() -> None:
    assert not [turn for turn in plan(1, 500, without=("power-cut",)) if turn.act.kind == "power-cut"]


def test_every_act_says_what_it_is() -> None:
    assert all(str(turn.act) for turn in plan(1, 500))
    assert len({str(turn.act).split(" ")[0] for turn in plan(1, 500)}) > 5
