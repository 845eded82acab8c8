"""What all connectors decide alike: what the text of a message is, when to connect again, when to ask for names."""

from __future__ import annotations

#: First pause before connecting again, and the longest, in seconds.
RECONNECT_FIRST_S = 5.0
RECONNECT_MAX_S = 300.0
#: Share of a pause that chance may take off, so that many connectors don't come back at one moment.
RECONNECT_JITTER = 0.2
#: Connectors that show an answer while it is being written.
SHOW_WRITING = frozenset({"telegram", "discord"})

#: Names of groups are asked of a platform at most so often, ms.
NAMES_EVERY_MS = 24 * 3600 * 1000


def reconnect_delay_s(failures: int, chance: float) -> float:
    """The pause before connecting again after so many failures in a row (from 1); there is no last try.

    `chance` is in [0, 1): 0 gives the whole pause.
    """
    pause = min(RECONNECT_FIRST_S * 2.0 ** min(failures - 1, 16), RECONNECT_MAX_S)
    return pause * (1.0 - RECONNECT_JITTER * chance)


def text_of(body: str | None, *captions: str | None) -> str:
    """The text of a message: its body, or the caption of what it shows; "" = it has none."""
    return next((text for text in (body, *captions) if text), "")


def names_are_due(synced_ms: int | None, now_ms: int, *, force: bool = False) -> bool:
    """Whether to ask the platform for its groups' names. A clock that went back asks too."""
    return force or synced_ms is None or not 0 <= now_ms - synced_ms < NAMES_EVERY_MS


def shown_name(sender: str, display_name: str | None) -> str:
    """How a sender is called: the display name, or the part of the address before "@"."""
    return display_name or sender.partition("@")[0]
