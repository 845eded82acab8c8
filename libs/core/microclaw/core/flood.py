"""How fast somebody may wake the assistant: by token buckets. Pure.

Too fast is not lost: what comes faster than a sender or a chat may wake the group is kept, and wakes it once, a little
later, all together. Only what comes faster still is dropped, and the owner is told. The owner is always served.
"""

from __future__ import annotations

from microclaw.core.token_bucket import Rate

#: Kept per sender: so many times more than may wake.
KEPT_FACTOR = 20
#: What came too fast wakes its group together after this.
LATE_MS = 10_000
#: The owner is told of a flood at most so often.
TOLD_EVERY_MS = 3600 * 1000


def per_minute(messages: float) -> Rate:
    """So many a minute; a minute's worth may come at once."""
    return Rate(per_s=messages / 60.0, burst=messages)
