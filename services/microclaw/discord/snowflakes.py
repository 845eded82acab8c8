"""Discord's ids: each holds the moment it was made at, so ids in order are messages in order."""

from __future__ import annotations

#: The first moment of Discord's count, Unix ms.
EPOCH_MS = 1_420_070_400_000
_TIME_BITS = 22


def made_ms(snowflake: int) -> int:
    """When it was made, Unix ms, by Discord's clock."""
    return (snowflake >> _TIME_BITS) + EPOCH_MS


def first_of(unix_ms: int) -> int:
    """The least id of that moment."""
    return max(unix_ms - EPOCH_MS, 0) << _TIME_BITS


def earlier(snowflake: int, ms: int) -> int:
    """The least id of so many milliseconds before."""
    return first_of(made_ms(snowflake) - ms)
