"""How fast messages go out: a bucket for each chat, one for all, and what a platform says of waiting."""

from __future__ import annotations

import pytest

from microclaw.channel import pace
from microclaw.channel.pace import HOLD_S_MAX, Pace
from microclaw.core.token_bucket import Rate


class Clock:
    """Time goes on by sleeping."""

    def __init__(self, **limits: object) -> None:
        self.now = 100.0
        self.pace = Pace(**({  # type: ignore[arg-type]
            "everywhere": Rate(per_s=10.0, burst=10), "chat": Rate(per_s=1.0, burst=2), "clock_s": lambda: self.now,
            "sleep": self.sleep,
        } | limits))

    async def sleep(self, seconds: float) -> None:
        # As on a real clock, the shortest sleep takes some time.
        self.now += max(seconds, 1e-6)

    async def sends(self, *chats: str) -> list[float]:
        """When each of these went out, seconds from the beginning."""
        found = []
        for chat in chats:
            await self.pace.wait(chat)
            found.append(round(self.now - 100.0, 3))
        return found


async def test_a_chat_has_its_burst_and_then_its_rate_and_holds_up_no_other() -> None:
    clock = Clock()
    assert await clock.sends("a", "a", "b", "b") == [0, 0, 0, 0]
    assert await clock.sends("a", "a", "b") == [1, 2, 2]


async def test_all_chats_together_have_a_rate_too() -> None:
    clock = Clock()
    assert (await clock.sends(*(f"c{number}" for number in range(30))))[-1] == pytest.approx(2.0, abs=0.01)


async def test_what_a_platform_says_of_waiting_holds_for_the_chat_or_for_all_and_never_for_ever() -> None:
    clock = Clock()
    clock.pace.hold(7.0, "a")
    assert await clock.sends("b", "a") == [0, 7]
    clock.pace.hold(5.0)
    assert (await clock.sends("c"))[0] == 12
    clock.pace.hold(1e9, "d")
    assert (await clock.sends("d"))[0] == pytest.approx(12 + HOLD_S_MAX)


async def test_chats_that_count_together_share_a_bucket() -> None:
    clock = Clock(bucket=lambda chat: (chat.partition("/")[0], Rate(per_s=1.0, burst=1)))
    assert await clock.sends("a/1", "a/2", "b/1") == [0, 1, 1]


async def test_buckets_of_silent_chats_are_forgotten_and_held_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "CHATS_MAX", 5)
    clock = Clock(everywhere=Rate(per_s=1000.0, burst=1000))
    clock.pace.hold(500.0, "held")
    for number in range(50):
        await clock.sends(f"c{number}")
        clock.now += 3.0
    assert len(clock.pace._chats) <= 6
    assert (await clock.sends("held"))[0] == 500
