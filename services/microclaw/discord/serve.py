"""The connector's wiring, and the way to a connection."""

from __future__ import annotations

from hikari import errors
from hikari.api.rest import RESTClient
from hikari.applications import get_token_id
from hikari.impl.config import HTTPSettings, HTTPTimeoutSettings
from hikari.impl.rest import RESTApp

from microclaw.bus.service import Service
from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.open import Channel, open_channel
from microclaw.discord import gateway
from microclaw.discord.inbound import Hearing
from microclaw.discord.outbound import Sender
from microclaw.discord.preview import Preview

#: One request, at most, seconds; less than the kit gives to a part.
REQUEST_S_MAX = 90.0
#: hikari waits so long for Discord's rate limits by itself; for longer ones the kit does, and holds the chat alone.
LIMIT_S_MAX = 6.0
#: Typing is shown for ten seconds.
TYPING_EVERY_S = 8.0


class Discord:
    """One account's connection, again and again."""

    def __init__(self, channel: Channel, app: RESTApp, sender: Sender) -> None:
        self._channel = channel
        self._app = app
        self._sender = sender

    async def connect(self) -> None:
        """Stay connected. Raises `LoggedOut`, `Unreachable`."""
        token = (await self._channel.secret()).strip()
        try:
            self._sender.user = int(get_token_id(token))
        except ValueError as error:
            raise LoggedOut(
                "the secret is no token of a Discord bot (a.b.c): copy it from the bot's page in the developer portal"
            ) from error
        async with self._app.acquire(token, "Bot") as rest:
            url = await _gateway_url(rest)
            hearing = Hearing(self._channel, rest, self._sender.seen_own)
            self._sender.rest = rest
            try:
                await gateway.stay(token, url, self._channel.link, hearing.hear, hearing.failed)
            finally:
                self._sender.rest = None
                await hearing.close()


async def _gateway_url(rest: RESTClient) -> str:
    try:
        info = await rest.fetch_gateway_bot_info()
    except errors.UnauthorizedError as error:
        raise LoggedOut(gateway.TURNED_AWAY) from error
    except errors.RateLimitTooLongError as error:
        raise Unreachable("Discord says that we are too fast", error.retry_after) from error
    except errors.HTTPError as error:
        raise Unreachable(f"Discord can't be reached: {error}") from error
    limit = info.session_start_limit
    if limit.remaining <= 0:
        raise Unreachable("Discord allows no more connections today", limit.reset_after.total_seconds())
    return info.url


async def serve(service: Service) -> None:
    """The connector's life."""
    # Never tried again by hikari itself: whether that is safe, the ledger knows.
    app = RESTApp(
        url=service.settings.channels.discord.api_url.rstrip("/") or None, max_retries=0, max_rate_limit=LIMIT_S_MAX,
        http_settings=HTTPSettings(timeouts=HTTPTimeoutSettings(total=REQUEST_S_MAX)),
    )
    await app.start()
    try:
        async with open_channel(service) as channel:
            sender = Sender(channel)
            discord = Discord(channel, app, sender)
            await channel.run(
                sender, discord.connect, show_typing=sender.show_typing, typing_every_s=TYPING_EVERY_S,
                preview=Preview(sender),
            )
    finally:
        await app.close()
