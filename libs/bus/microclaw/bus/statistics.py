"""Numbers of the broker's work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

#: Commits remembered.
KEPT = 2_000


class Statistics:
    """How long commits took and how many messages each held."""

    def __init__(self) -> None:
        self._commits: deque[tuple[float, int]] = deque(maxlen=KEPT)

    def committed(self, took_ms: float, messages: int) -> None:
        """One commit."""
        self._commits.append((took_ms, messages))

    def commit_ms(self, share: float) -> float:
        """The commit time that this share of commits stayed below, ms; 0.0 = no commit yet."""
        return quantile((took for took, _ in self._commits), share)

    def batch(self, share: float) -> float:
        """Messages in one commit, likewise; commits of acknowledgements alone do not count."""
        return quantile((float(messages) for _, messages in self._commits if messages), share)


def quantile(values: Iterable[float], share: float) -> float:
    """The nearest-rank quantile; 0.0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
