"""What model calls may cost in a day, and what they did: tokens always, money where prices are known.

Money is counted in millionths of the owner's currency, so that sums are exact: a price per million tokens is then
the price of one token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from microclaw.core.requests import UsageRow
from microclaw.core.settings import Price

MICROS = 1_000_000
#: What may stand behind a known model's name in the name that an answer gives (`name-20261101`, `name:latest`).
_VERSION_MARKS = "-:@."


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of one day; 0 = no limit."""

    tokens: int = 0
    money_micros: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What one day cost so far."""

    tokens: int = 0
    money_micros: int = 0


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The model's price: by its exact name, else by the longest known name that it is a version of."""
    if model in prices:
        return prices[model]
    named = [name for name in prices if model.startswith(name) and model[len(name)] in _VERSION_MARKS]
    return prices[max(named, key=len)] if named else None


def cost_micros(row: UsageRow, price: Price) -> int:
    """What a row of usage cost at this price. The provider's cache has prices of its own where they are given."""
    plain = max(0, row.input_tokens - row.cache_read_tokens - row.cache_write_tokens)
    cost = plain * price.input + row.output_tokens * price.output
    cost += row.cache_read_tokens * (price.input if price.cache_read is None else price.cache_read)
    cost += row.cache_write_tokens * (price.input if price.cache_write is None else price.cache_write)
    return round(cost)


def spent_in(rows: Iterable[UsageRow], prices: Mapping[str, Price]) -> Spent:
    """The sum, as it counts against a limit.

    A model without a price counts at the dearest known ones: an agent that names a model of its own choice
    must not get round the limit. Without any price the money is 0 and only tokens count.
    """
    dearest = _dearest(prices)
    tokens = micros = 0
    for row in rows:
        tokens += row.input_tokens + row.output_tokens
        micros += cost_micros(row, price_of(row.model, prices) or dearest)
    return Spent(tokens, micros)


def over(whose: str, spent: Spent, limit: Limit, currency: str) -> str:
    """Why nothing more may be spent, "" = go on. `whose`: "all groups", "group home"."""
    if limit.tokens and spent.tokens >= limit.tokens:
        return f"the day's budget of {whose} is used up: {spent.tokens:,} of {limit.tokens:,} tokens"
    if limit.money_micros and spent.money_micros >= limit.money_micros:
        used, most = money(spent.money_micros, currency), money(limit.money_micros, currency)
        return f"the day's budget of {whose} is used up: {used} of {most}"
    return ""


def money(micros: int, currency: str) -> str:
    """An amount as people read it: `1.25 USD`, with more digits where it would be 0.00."""
    amount = micros / MICROS
    return f"{amount:.2f} {currency}" if amount >= 0.01 or not micros else f"{amount:.4f} {currency}"


def _dearest(prices: Mapping[str, Price]) -> Price:
    known = list(prices.values())
    sent = (max(price.input, price.cache_read or 0.0, price.cache_write or 0.0) for price in known)
    return Price(
        input=max(sent, default=0.0),
        output=max((price.output for price in known), default=0.0),
    )
