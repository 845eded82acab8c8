"""What a connector must be able to do for its platform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from microclaw.channel.ledger import Entry
from microclaw.core.token_bucket import Rate


class NotSent(Exception):
    """The platform certainly did not take it, and may later (too fast, not connected): it is tried again."""

    def __init__(self, reason: str, retry_after_s: float | None = None, *, everywhere: bool = False) -> None:
        #: What the platform asked for; None = the usual growing pauses.
        self.retry_after_s = retry_after_s
        #: The pause holds for all chats, not for this one alone.
        self.everywhere = everywhere
        super().__init__(reason)


class Unsure(Exception):
    """It was on its way when the connection broke, or the platform failed: it may have arrived."""


class Rejected(Exception):
    """The platform will never take it; one line that says why."""


class Gone(Exception):
    """The message of ours that was to become this part (`Part.edits`) can't be changed: the part was not sent, and goes
    out as a message of its own."""


class Fate(Enum):
    """What can be found out about a part that may have arrived, where it was not found itself."""

    #: It did not arrive, or sending it again under the same key can't double it.
    SEND_AGAIN = auto()
    #: Nobody can tell.
    UNKNOWABLE = auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a platform takes."""

    #: Longest text of one message, by `measure`.
    text_max: int
    #: All messages together, and those to one chat.
    everywhere: Rate
    chat: Rate
    #: How the platform counts a text.
    measure: Callable[[str], int] = len
    #: Where chats differ: what a chat's messages count for (topics of one group count together), and its rate.
    bucket: Callable[[str], tuple[str, Rate]] | None = None
    #: A message can carry a text and a file: the first file goes with the last text.
    file_with_text: bool = False


class Platform(Protocol):
    """How to send one part, and how to find out about one that may have been sent."""

    @property
    def limits(self) -> Limits:
        """Fixed for the life of the process."""
        ...

    async def send(self, entry: Entry) -> str:
        """Send it; returns what the platform calls it. `entry.key` is the same at every try.

        :raises NotSent, Unsure, Rejected, Gone: as they say. Any other exception counts as Unsure.
        """
        ...

    async def find(self, entry: Entry) -> str | Fate:
        """The platform's id of a part that may have been sent, or what else is known of it.

        :raises NotSent: it can't be found out at present.
        """
        ...
