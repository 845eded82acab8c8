"""One stay at Discord's gateway, by hikari's shard alone: without its bot, its cache and its events, which cost memory
and tell of messages in tasks of their own, out of order.

hikari keeps the connection by itself: heartbeats (a missing answer ends it), RESUME, a new session where Discord wants
one. Here its state becomes the link's, by evidence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from hikari import errors
from hikari.api.event_factory import EventFactory
from hikari.api.event_manager import EventManager
from hikari.impl.config import HTTPSettings, ProxySettings
from hikari.impl.shard import GatewayShardImpl
from hikari.intents import Intents

from microclaw.channel.link import Link, LoggedOut, Unreachable

log = logging.getLogger("microclaw.channels")

#: What we want to be told: guilds and their channels, messages there and in direct chats, and their texts.
INTENTS = Intents.GUILDS | Intents.GUILD_MESSAGES | Intents.DM_MESSAGES | Intents.MESSAGE_CONTENT
#: From the first try to a session, at most, seconds.
START_S_MAX = 60.0
#: How often the state of the connection is looked at, seconds.
LOOK_S = 1.0
#: Without a connection for so long we begin from scratch, seconds: a session is forgotten by then.
GIVE_UP_S = 180.0
TURNED_AWAY = (
    "Discord does not accept the token: copy the bot's present one from the developer portal and set it "
    "(`microclaw secrets set`, its name stands in channels.discord.token)"
)
#: Close codes of Discord's that only the owner can mend → what to do.
_OWNERS = {
    4004: TURNED_AWAY,
    4014: 'Discord does not tell us what people write: switch on "Message Content Intent" for the bot on its page in '
          "Discord's developer portal (Bot → Privileged Gateway Intents)",
}

Hear = Callable[[str, Mapping[str, Any]], None]


class _Told:
    """What the shard takes for its event manager and its event factory."""

    def __init__(self, link: Link, hear: Hear) -> None:
        self._link = link
        self._hear = hear
        self._account = ""

    def consume_raw_event(self, event_name: str, _shard: object, payload: Mapping[str, Any]) -> None:
        """Everything that Discord tells, in its order."""
        if event_name == "READY":
            self._account = str(payload["user"]["username"])
        if event_name in ("READY", "RESUMED"):
            self._link.connected(self._account)
        self._link.event()
        try:
            self._hear(event_name, payload)
        except (LookupError, TypeError, ValueError):
            # Not as we know it: the rest is still worth having.
            log.exception("not understood", extra={"event": event_name})

    def deserialize_connected_event(self, _shard: object) -> bool:
        return True

    def deserialize_disconnected_event(self, _shard: object) -> bool:
        return False

    async def dispatch(self, connected: bool, *, return_tasks: bool = False) -> None:  # noqa: ARG002
        """The shard's own news. That it is connected, READY and RESUMED have told already."""
        if not connected:
            self._link.lost("connecting", "the connection to Discord broke; trying again")


async def stay(token: str, url: str, link: Link, hear: Hear, failed: asyncio.Future[None]) -> None:
    """Stay connected until something ends it, which is raised; `failed` ends it too.

    :raises LoggedOut: the owner has to do something; says what.
    :raises Unreachable: Discord can't be reached, or has closed the connection for good.
    """
    told = _Told(link, hear)
    shard = GatewayShardImpl(
        token=token, url=url, intents=INTENTS, http_settings=HTTPSettings(), proxy_settings=ProxySettings(),
        event_manager=cast(EventManager, told), event_factory=cast(EventFactory, told),
    )
    try:
        async with asyncio.timeout(START_S_MAX):
            await shard.start()
        await _watch(shard, link, failed)
    except TimeoutError as error:
        raise Unreachable("Discord's gateway does not answer") from error
    except errors.GatewayServerClosedConnectionError as closed:
        if (advice := _OWNERS.get(int(closed.code or 0))) is not None:
            raise LoggedOut(advice) from closed
        raise Unreachable(f"Discord closed the connection: {closed.code} {closed.reason}") from closed
    except errors.GatewayError as error:
        raise Unreachable(f"Discord's gateway: {error.reason}") from error
    finally:
        await _close(shard)


async def _watch(shard: GatewayShardImpl, link: Link, failed: asyncio.Future[None]) -> None:
    clock = asyncio.get_running_loop().time
    ended = asyncio.ensure_future(shard.join())
    answered, connected_s = shard.heartbeat_latency, clock()
    try:
        while True:
            done, _ = await asyncio.wait({ended, failed}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                done.pop().result()
                raise Unreachable("the connection to Discord ended")
            if shard.heartbeat_latency != answered:
                # A heartbeat was answered: quiet, but alive. Before the first one it is NaN, which is a connection too.
                answered = shard.heartbeat_latency
                link.event()
            if shard.is_connected:
                connected_s = clock()
            elif clock() - connected_s > GIVE_UP_S:
                raise Unreachable("no connection to Discord's gateway")
    finally:
        ended.cancel()


async def _close(shard: GatewayShardImpl) -> None:
    if shard.is_alive:
        await shard.close()
        return
    # hikari keeps no handle on a start that was given up, and goes on with it.
    for task in asyncio.all_tasks():
        if task.get_name() == f"keep alive (shard {shard.id})":
            task.cancel()
            await asyncio.wait({task})
