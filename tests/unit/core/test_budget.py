"""What model calls cost, and when the day's budget is used up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.budget import Limit, Spent, cost_micros, money, over, price_of, spent_in
from microclaw.core.errors import UsageError
from microclaw.core.requests import UsageRow
from microclaw.core.settings import Price, parse

PRICES = {
    "claude-x": Price(input=3, output=15, cache_read=0.3, cache_write=3.75),
    "claude-x-mini": Price(input=1, output=5),
}


def row(model: str = "claude-x", *, read: int = 0, written: int = 0, sent: int = 100, answered: int = 10) -> UsageRow:
    return UsageRow(
        day="2026-11-23", group="home", model=model, calls=1, unknown_calls=0, input_tokens=sent,
        output_tokens=answered, cache_read_tokens=read, cache_write_tokens=written,
    )


@pytest.mark.parametrize(("model", "input_price"), [
    ("claude-x", 3), ("claude-x-20261101", 3), ("claude-x-mini", 1), ("claude-x-mini:latest", 1), ("claude-xy", None),
    ("other", None), ("", None),
])
def test_a_price_holds_for_the_name_and_its_versions(model, input_price):
    found = price_of(model, PRICES)
    assert (found.input if found else None) == input_price


def test_cost_counts_what_the_cache_held_at_its_own_price():
    assert cost_micros(row(sent=100, answered=10), PRICES["claude-x"]) == 450
    assert cost_micros(row(sent=100, read=60, written=20, answered=0), PRICES["claude-x"]) == 60 + 18 + 75
    assert cost_micros(row("claude-x-mini", sent=100, read=60, answered=0), PRICES["claude-x-mini"]) == 100


def test_a_model_without_a_price_counts_at_the_dearest_one_against_the_limit():
    assert spent_in([row("unheard-of", sent=10, answered=1)], PRICES).money_micros >= 10 * 3 + 15
    assert spent_in([row("unheard-of", sent=10, answered=1)], {}) == Spent(11, 0)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_it_is_over_exactly_when_a_limit_that_is_set_is_reached(tokens, micros, tokens_max, micros_max):
    reached = bool(tokens_max and tokens >= tokens_max) or bool(micros_max and micros >= micros_max)
    said = over("group home", Spent(tokens, micros), Limit(tokens_max, micros_max), "EUR")
    assert bool(said) == reached
    assert not said or "group home" in said


def test_money_is_readable_down_to_the_smallest():
    assert [money(1_250_000, "USD"), money(0, "USD"), money(1200, "USD")] == ["1.25 USD", "0.00 USD", "0.0012 USD"]


def test_a_limit_of_money_without_prices_is_refused_by_the_configuration():
    with pytest.raises(UsageError, match=r"budget\.prices"):
        parse("[budget]\nmoney_per_day = 5\n", {})
    settings = parse('[budget]\nmoney_per_day = 5\n[budget.prices."m"]\ninput = 1\noutput = 2\n'
                     "[budget.groups.home]\ntokens_per_day = 1000\n", {})
    assert settings.budget.groups["home"].tokens_per_day == 1000 and settings.budget.prices["m"].output == 2
