"""A bucket never allows more than its burst and its rate, whatever the clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.token_bucket import Rate, TokenBucket

_rates = st.builds(Rate, per_s=st.floats(0.1, 100), burst=st.floats(1, 50))


@given(_rates, st.lists(st.floats(0, 5), min_size=1, max_size=100))
def test_no_span_of_time_sees_more_than_burst_and_rate_allow(rate: Rate, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= rate.burst + now * rate.per_s + 1e-6


@given(_rates, st.integers(1, 30))
def test_waiting_as_long_as_it_says_is_enough(rate: Rate, acts: int) -> None:
    bucket, now = TokenBucket(rate, 0.0), 0.0
    for _ in range(acts):
        now += bucket.wait_s(now) + 1e-9
        assert bucket.take(now + 1e-6)
        now += 1e-6


@given(_rates, st.floats(0, 1000))
def test_nothing_goes_while_it_is_held_and_one_right_after(rate: Rate, hold_s: float) -> None:
    bucket = TokenBucket(rate, 0.0)
    bucket.hold(0.0, hold_s)
    if hold_s > 0.01:
        assert not bucket.take(hold_s * 0.9)
    assert bucket.wait_s(hold_s) < 0.01


def test_a_clock_that_goes_back_refills_nothing() -> None:
    bucket = TokenBucket(Rate(per_s=1, burst=1), 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(50.5)
    assert bucket.take(51.0)
