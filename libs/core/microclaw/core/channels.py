"""What all connectors decide alike: who sends a reply, when to connect again, when to ask for names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microclaw.core.groups import channel_of

#: First pause before connecting again, and the longest, in seconds.
RECONNECT_FIRST_S = 5.0
RECONNECT_MAX_S = 300.0
#: Share of a pause that chance may take off, so that many connectors don't come back at one moment.
RECONNECT_JITTER = 0.2
#: Names of groups are asked of a platform at most so often, ms.
NAMES_EVERY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Route:
    """The connector that sends a reply. Not connected: the journal keeps the reply until it is."""

    channel: str
    connected: bool


def route(chat: str, connectors: Mapping[str, bool]) -> Route | None:
    """The connector of a chat among these (name → connected), None = there is none for this address."""
    channel = channel_of(chat)
    return Route(channel, connectors[channel]) if channel in connectors else None


def reconnect_delay_s(failures: int, chance: float) -> float:
    """The pause before connecting again after so many failures in a row (from 1); there is no last try.

    `chance` is in [0, 1): 0 gives the whole pause.
    """
    pause = min(RECONNECT_FIRST_S * 2.0 ** min(failures - 1, 16), RECONNECT_MAX_S)
    return pause * (1.0 - RECONNECT_JITTER * chance)


def names_are_due(synced_ms: int | None, now_ms: int, *, force: bool = False) -> bool:
    """Whether to ask the platform for its groups' names. A clock that went back asks too."""
    return force or synced_ms is None or not 0 <= now_ms - synced_ms < NAMES_EVERY_MS


def shown_name(sender: str, display_name: str | None) -> str:
    """How a sender is called: the display name, or the part of the address before "@"."""
    return display_name or sender.partition("@")[0]
