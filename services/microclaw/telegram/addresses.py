"""Chats' and messages' names: `telegram:<chat>`, of a topic `telegram:<chat>/<thread>`.

A group that becomes a supergroup gets another id at Telegram. Here it keeps the address that it has: what is registered
under it stays, and only `Moves` knows where it is now. Message ids begin anew there, so such a message is called
`<message>@<chat>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from microclaw.channel.notes import Notes
from microclaw.core.groups import native_of

#: The kind of note that says where a group went: its id at first → its id now.
MOVED = "moved"

_NATIVE = re.compile(r"(-?[0-9]{1,19})(?:/([0-9]{1,10}))?\Z")
_MESSAGE = re.compile(r"([0-9]{1,19})(?:@(-?[0-9]{1,19}))?\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where messages go at Telegram."""

    chat_id: int
    #: The topic; 0 = the general one, or the chat has none.
    thread: int = 0

    @property
    def is_group(self) -> bool:
        """Telegram gives negative ids to whatever is not a person."""
        return self.chat_id < 0


def address(place: Place) -> str:
    """The chat's address on our side."""
    return f"telegram:{place.chat_id}" + (f"/{place.thread}" if place.thread else "")


def place_of(chat: str) -> Place:
    """What the address says. Raises ValueError: it is none of Telegram's."""
    found = _NATIVE.match(native_of(chat))
    if found is None:
        raise ValueError(f"{chat[:80]!r} is no chat of Telegram: write it as telegram:NUMBER or telegram:NUMBER/TOPIC")
    return Place(int(found[1]), int(found[2] or 0))


class Moves:
    """Groups that became supergroups."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._now = {int(first): int(now) for first, now in notes.all(MOVED).items()}

    def note(self, old: int, new: int) -> None:
        """Telegram says that a group is another one now."""
        first = self._first(old)
        if self._now.get(first) != new and first != new:
            self._notes.set(MOVED, {str(first): str(new)})
            self._now[first] = new

    def address(self, place: Place) -> str:
        """The address under which the chat is known, whatever it is called at Telegram by now."""
        return address(Place(self._first(place.chat_id), place.thread))

    def place(self, chat: str) -> Place:
        """Where the chat is now. Raises ValueError: it is none of Telegram's."""
        known = place_of(chat)
        return Place(self._now.get(known.chat_id, known.chat_id), known.thread)

    def platform_id(self, chat_id: int, message_id: int) -> str:
        """The message's id, unique in the chat's address."""
        return str(message_id) if self._first(chat_id) == chat_id else f"{message_id}@{chat_id}"

    def message_id(self, platform_id: str, place: Place) -> int | None:
        """Telegram's id of a message, None = it is not in the chat as it is now."""
        found = _MESSAGE.match(platform_id)
        if found is None or self.platform_id(place.chat_id, int(found[1])) != platform_id:
            return None
        return int(found[1])

    def _first(self, chat_id: int) -> int:
        return next((first for first, now in self._now.items() if now == chat_id), chat_id)
