"""Discord as a bot sees it: the gateway (`discord_gateway`) and REST (`discord_rest`) of one made-up community, over
real sockets. What goes wrong is asked for by a test, or happens by chance where a source of chance is given."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from tests.fakes.discord_gateway import Gateway
from tests.fakes.discord_rest import Rest
from tests.fakes.discord_world import ANN, BOT, BOT_ROLE, COOKS, DM, EPOCH_MS, GENERAL, GUILD, OTHER, THREAD, Json, user


class DiscordServer:
    """People write in channels (`says`); what the bot sends is in `sent`."""

    def __init__(self, chance: random.Random | None = None, *, heartbeat_ms: int = 5_000) -> None:
        self.chance = chance
        self.port = 0
        #: Every message, oldest first, by channel.
        self.messages: dict[int, list[Json]] = {channel: [] for channel in (GENERAL, OTHER, THREAD, DM)}
        self.channels: dict[int, Json] = {
            GENERAL: {"id": str(GENERAL), "type": 0, "name": "general", "guild_id": str(GUILD)},
            OTHER: {"id": str(OTHER), "type": 0, "name": "other", "guild_id": str(GUILD)},
            THREAD: {
                "id": str(THREAD), "type": 11, "name": "plans", "guild_id": str(GUILD), "parent_id": str(GENERAL)
            },
            DM: {"id": str(DM), "type": 1, "recipients": [user(ANN)]},
        }
        #: What the bot sent and we took: (nonce, channel, text), each once.
        self.sent: list[tuple[str, int, str]] = []
        #: Files of attachments by path.
        self.files: dict[str, bytes] = {}
        self.gateway = Gateway(self, heartbeat_ms)
        self.rest = Rest(self)
        self._last_id = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> DiscordServer:
        app = web.Application(client_max_size=30 << 20)
        self.rest.add_to(app)
        self.gateway.add_to(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            self.gateway.drop()
            await self._runner.cleanup()

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self.rest.calm()
        self.gateway.calm()

    def new_id(self) -> int:
        """A snowflake: greater than all before."""
        self._last_id = max(self._last_id + 1, (time.time_ns() // 1_000_000 - EPOCH_MS) << 22)
        return self._last_id

    def says(self, channel: int, text: str, author: int = ANN, **more: Any) -> Json:
        """Somebody writes; what is given besides changes the message."""
        message = self.message(channel, text, author) | more
        self.add(message)
        return message

    def renames(self, channel: int, name: str) -> None:
        """A channel is called otherwise from now on."""
        self.channels[channel]["name"] = name
        self.gateway.tell("CHANNEL_UPDATE", self.channels[channel])

    def edits(self, message: Json, text: str) -> None:
        """Its author changes a message."""
        message |= {"content": text, "edited_timestamp": datetime.now(UTC).isoformat()}
        self.gateway.tell("MESSAGE_UPDATE", self.as_told(message))

    def message(self, channel: int, text: str, author: int) -> Json:
        number = self.new_id()
        return {
            "id": str(number), "channel_id": str(channel), "author": user(author), "content": text,
            "timestamp": datetime.fromtimestamp(((number >> 22) + EPOCH_MS) / 1000, UTC).isoformat(),
            "edited_timestamp": None, "tts": False, "mention_everyone": False, "mentions": [], "mention_roles": [],
            "attachments": [], "embeds": [], "pinned": False, "type": 0, "flags": 0, "components": [],
        }

    def attachment(self, name: str, data: bytes, **more: Any) -> Json:
        """A file to be given to `says(attachments=[…])`."""
        path = f"/attachments/{self.new_id()}/{name}"
        self.files[path] = data
        url = f"{self.url}{path}"
        return {
            "id": str(self.new_id()), "filename": name, "size": len(data), "url": url, "proxy_url": url,
            "content_type": "application/x-lie",
        } | more

    def add(self, message: Json, nonce: str = "") -> None:
        """Keep it and tell everybody who listens."""
        channel = int(message["channel_id"])
        self.messages[channel].append(message)
        self.channels[channel]["last_message_id"] = message["id"]
        self.gateway.tell("MESSAGE_CREATE", self.as_told(message) | ({"nonce": nonce} if nonce else {}))

    def as_told(self, message: Json) -> Json:
        """The gateway tells more than the history does: the guild, and the author as its member."""
        if "guild_id" not in self.channels[int(message["channel_id"])]:
            return dict(message)
        member = {
            "roles": [], "nick": None, "joined_at": "2024-01-01T00:00:00+00:00", "deaf": False, "mute": False,
            "flags": 0,
        }
        return message | {"guild_id": str(GUILD), "member": member}

    def guild(self) -> Json:
        """As GUILD_CREATE tells it (of its many fields those that we read)."""
        here = [channel for channel in self.channels.values() if channel.get("guild_id") == str(GUILD)]
        return {
            "id": str(GUILD), "name": "Home", "roles": [
                {"id": str(GUILD), "name": "@everyone"},
                {"id": str(BOT_ROLE), "name": "claw", "tags": {"bot_id": str(BOT)}},
                {"id": str(COOKS), "name": "cooks"},
            ],
            "channels": [without_guild(channel) for channel in here if channel["type"] != 11],
            "threads": [without_guild(channel) for channel in here if channel["type"] == 11],
        }

    def texts(self, channel: int) -> list[str]:
        return [text for _nonce, there, text in self.sent if there == channel]


def without_guild(channel: Json) -> Json:
    return {key: value for key, value in channel.items() if key != "guild_id"}
