"""How fast chats and senders write, and who seems to be a loop: remembered in this process alone.

A restart forgets it: then everybody may write a minute's worth more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from microclaw.core.flood import KEPT_FACTOR, TOLD_EVERY_MS, per_minute
from microclaw.core.groups import channel_of
from microclaw.core.kinds import MessageReceived
from microclaw.core.loops import Talk, Turn, heard, replied
from microclaw.core.people import LOCAL_CHANNELS, sender_of
from microclaw.core.token_bucket import TokenBucket

#: Senders and chats that are remembered; the one that was quiet longest is forgotten.
REMEMBERED_MAX = 10_000

K = TypeVar("K")
T = TypeVar("T")


class Paces:
    """The buckets and the talks."""

    def __init__(
        self, clock_ms: Callable[[], int], *, per_sender_per_min: int = 60, per_chat_per_min: int = 120
    ) -> None:
        self._clock_ms = clock_ms
        self._per_sender = per_sender_per_min
        self._per_chat = per_chat_per_min
        self._buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self._talks: OrderedDict[str, Talk] = OrderedDict()
        self._told_ms: OrderedDict[str, int] = OrderedDict()

    def kept(self, received: MessageReceived, *, is_owner: bool) -> bool:
        """Whether a message is kept at all."""
        return is_owner or received.is_own_reply or self._take(
            "kept", sender_of(received), self._per_sender * KEPT_FACTOR
        )

    def wakes(self, received: MessageReceived, *, is_owner: bool) -> bool:
        """Whether a message that is kept, and would wake its group, does so at once; else it does a little later."""
        if is_owner:
            return True
        sender = self._take("sender", sender_of(received), self._per_sender)
        return self._take("chat", received.chat, self._per_chat) and sender

    def turn(self, received: MessageReceived, *, is_owner: bool) -> Turn:
        """Whether it is a loop."""
        if channel_of(received.chat) in LOCAL_CHANNELS:
            return Turn.GO
        talk, turn = heard(
            self._talks.get(received.chat, Talk()), from_bot=received.from_bot, is_group=received.is_group,
            is_owner=is_owner, now_ms=self._clock_ms(),
        )
        _remember(self._talks, received.chat, talk)
        return turn

    def replied(self, chat: str) -> None:
        """We said something there."""
        _remember(self._talks, chat, replied(self._talks.get(chat, Talk()), now_ms=self._clock_ms()))

    def is_news(self, sender: str) -> bool:
        """Whether the owner is to be told of a flood from this sender: not again within the hour."""
        now = self._clock_ms()
        if now - self._told_ms.get(sender, -TOLD_EVERY_MS) < TOLD_EVERY_MS:
            return False
        _remember(self._told_ms, sender, now)
        return True

    def _take(self, what: str, whose: str, per_min: int) -> bool:
        key, now_s = (what, whose), self._clock_ms() / 1000
        bucket = self._buckets.get(key) or TokenBucket(per_minute(per_min), now_s)
        _remember(self._buckets, key, bucket)
        return bucket.take(now_s)


def _remember(memory: OrderedDict[K, T], key: K, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
