"""How fast is too fast: a token bucket, without a clock of its own.

A bucket holds `burst` tokens and gets `per_s` new ones a second; each act takes one. Time is a parameter (monotonic
seconds), so a decision can be played in a test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """How much a bucket allows."""

    per_s: float
    burst: float = 1.0


class TokenBucket:
    """One bucket, full at the start."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at_s = now_s

    def take(self, now_s: float, tokens: float = 1.0) -> bool:
        """Take them if they are there."""
        if self.wait_s(now_s, tokens) > 0:
            return False
        self._tokens -= tokens
        return True

    def wait_s(self, now_s: float, tokens: float = 1.0) -> float:
        """Seconds until they could be taken; 0 = now."""
        self._refill(now_s)
        return max(0.0, (tokens - self._tokens) / self._rate.per_s)

    def is_full(self, now_s: float) -> bool:
        """Whether nothing was taken lately: a full bucket may be forgotten."""
        self._refill(now_s)
        return self._tokens >= self._rate.burst

    def hold(self, now_s: float, until_s: float) -> None:
        """Allow nothing before `until_s`: somebody said that it was too fast."""
        self._refill(now_s)
        # Exactly one token at that moment.
        self._tokens = min(self._tokens, 1.0 - (until_s - now_s) * self._rate.per_s)

    def _refill(self, now_s: float) -> None:
        # A clock that went back refills nothing.
        passed_s = max(0.0, now_s - self._at_s)
        self._tokens = min(self._rate.burst, self._tokens + passed_s * self._rate.per_s)
        self._at_s = now_s
