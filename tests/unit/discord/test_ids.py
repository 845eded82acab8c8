"""Discord's ids, and the names of parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from microclaw.discord.outbound import nonce_of
from microclaw.discord.snowflakes import EPOCH_MS, earlier, first_of, made_ms

#: Discord's own example of one.
EXAMPLE, EXAMPLE_MS = 175_928_847_299_117_063, 1_462_015_105_796


def test_an_id_says_when_it_was_made() -> None:
    assert made_ms(EXAMPLE) == EXAMPLE_MS
    assert first_of(EXAMPLE_MS) <= EXAMPLE < first_of(EXAMPLE_MS + 1)
    assert earlier(EXAMPLE, 1000) == first_of(EXAMPLE_MS - 1000)
    assert first_of(EPOCH_MS - 1) == 0 and earlier(5, 60_000) == 0


@given(st.integers(EPOCH_MS, 1 << 42))
def test_the_least_id_of_a_moment_is_of_that_moment(unix_ms: int) -> None:
    assert made_ms(first_of(unix_ms)) == unix_ms and made_ms(max(first_of(unix_ms) - 1, 0)) <= unix_ms


def test_a_nonce_is_short_the_same_for_one_part_and_another_for_the_next() -> None:
    names = [f"{'ab' * 16}-{number}" for number in range(1000)]
    assert {nonce_of(name) for name in names} == {nonce_of(name) for name in names}
    assert len({nonce_of(name) for name in names}) == 1000
    assert all(len(nonce_of(name)) <= 25 for name in names)
