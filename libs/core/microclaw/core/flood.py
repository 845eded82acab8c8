"""How fast somebody may wake the assistant: token buckets. Pure.

Too fast is not lost: what comes faster than a sender or a chat may wake the group is kept, and wakes it once, a little
later, all together. Only what comes faster still is dropped, and the owner is told. The owner is always served.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Kept per sender: so many times more than may wake.
KEPT_FACTOR = 20
#: What came too fast wakes its group together after this.
LATE_MS = 10_000
#: The owner is told of a flood at most so often.
TOLD_EVERY_MS = 3600 * 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` as they were at `at_ms`."""

    tokens: float
    at_ms: int


def take(bucket: Bucket | None, per_min: float, *, now_ms: int) -> tuple[Bucket, bool]:
    """The bucket after somebody asked for a token, and whether there was one. It holds a minute's worth, and is full
    when it is new. A clock that went back gives nothing, and takes nothing away."""
    if bucket is None:
        bucket = Bucket(per_min, now_ms)
    passed_ms = max(0, now_ms - bucket.at_ms)
    tokens = min(per_min, bucket.tokens + passed_ms * per_min / 60_000)
    if tokens < 1:
        return Bucket(tokens, now_ms), False
    return Bucket(tokens - 1, now_ms), True
