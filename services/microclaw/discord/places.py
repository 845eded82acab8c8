"""What the places are called where messages come from: guilds' channels, threads, roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Channel types in which people write: text, direct, announcement, the three kinds of threads, voice and stage chats.
_WRITTEN_IN = frozenset({0, 1, 5, 10, 11, 12, 2, 13})
_THREADS = frozenset({10, 11, 12})


@dataclass(frozen=True, slots=True)
class Place:
    """A channel or a thread of a guild."""

    id: int
    guild: int
    name: str
    #: Of a thread: its channel.
    parent: int = 0
    #: The newest message when we were told of it; it may have been deleted since. 0 = none.
    last_message: int = 0

    @property
    def is_thread(self) -> bool:
        """Whether it hangs on a channel."""
        return self.parent != 0


class Places:
    """All that we were told of."""

    def __init__(self) -> None:
        self._guilds: dict[int, str] = {}
        self._places: dict[int, Place] = {}
        self._roles: dict[int, str] = {}
        #: Roles that are one bot's alone: role → bot.
        self._bots_roles: dict[int, int] = {}

    def learn_guild(self, told: Mapping[str, Any]) -> list[Place]:
        """From GUILD_CREATE; returns the places in which people write."""
        guild = int(told["id"])
        self._guilds[guild] = str(told.get("name") or "")
        for role in told.get("roles", ()):
            self.learn_role(role)
        return [
            place for each in (*told.get("channels", ()), *told.get("threads", ()))
            if (place := self.learn(each, guild)) is not None
        ]

    def learn(self, told: Mapping[str, Any], guild: int) -> Place | None:
        """From a channel as Discord tells it; None = nobody writes there."""
        if told["type"] not in _WRITTEN_IN or not guild:
            return None
        place = Place(
            id=int(told["id"]), guild=guild, name=str(told.get("name") or ""),
            parent=int(told.get("parent_id") or 0) if told["type"] in _THREADS else 0,
            last_message=int(told.get("last_message_id") or 0),
        )
        self._places[place.id] = place
        return place

    def learn_role(self, told: Mapping[str, Any]) -> None:
        """From a role as Discord tells it."""
        self._roles[int(told["id"])] = str(told["name"])
        if bot := (told.get("tags") or {}).get("bot_id"):
            self._bots_roles[int(told["id"])] = int(bot)

    def of(self, channel: int) -> Place | None:
        """The place, None = unknown, or a direct chat."""
        return self._places.get(channel)

    def title(self, channel: int) -> str:
        """As it is shown: `Home #general`, `Home #general › plans`; "" = unknown."""
        place = self._places.get(channel)
        if place is None:
            return ""
        return " ".join(filter(None, (self._guilds.get(place.guild, ""), *self._path(place))))

    def titles(self, guild: int) -> dict[int, str]:
        """Of a guild's channels, threads apart."""
        return {
            place.id: self.title(place.id) for place in self._places.values()
            if place.guild == guild and not place.is_thread
        }

    def channel_name(self, channel: int) -> str:
        """Its name alone, "" = unknown."""
        place = self._places.get(channel)
        return place.name if place else ""

    def role_name(self, role: int) -> str:
        """What a role is called, "" = unknown."""
        return self._roles.get(role, "")

    def roles_of_bot(self, bot: int) -> frozenset[int]:
        """The roles that are this bot's alone: who mentions one means the bot."""
        return frozenset(role for role, whose in self._bots_roles.items() if whose == bot)

    def _path(self, place: Place) -> Iterator[str]:
        if not place.is_thread:
            yield f"#{place.name}"
            return
        if parent := self._places.get(place.parent):
            yield f"#{parent.name}"
        yield f"› {place.name}"
