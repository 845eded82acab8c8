"""Calls to the Bot API, and files from it; and what its refusals mean.

An error's text never holds the token, which is a part of every address there.
"""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import TypeVar

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import GetFile, TelegramMethod
from aiogram.utils.token import TokenValidationError
from aiohttp import ClientConnectorError, ClientError, ClientResponseError, ClientTimeout

from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.platform import NotSent, Rejected, Unsure

#: One call, at most, seconds; a long poll has its own bound.
CALL_S_MAX = 30
#: Sending a file, at most, seconds.
UPLOAD_S_MAX = 110
#: Fetching a file, at most, seconds.
DOWNLOAD_S_MAX = 120
_CHUNK_BYTES = 1 << 16

_TOKEN = re.compile(r"bot\d+:[\w-]+")
_CONFLICT = (
    "another program polls with this bot's token; end it, or give MicroClaw a bot of its own (@BotFather, /newbot)"
)
_WEBHOOK = (
    "this bot has a webhook, so another program gets its messages; remove it (deleteWebhook), or give MicroClaw a bot "
    "of its own (@BotFather, /newbot)"
)
_REFUSED = "Telegram refuses the token; set it with `microclaw secrets set {name}` (@BotFather, /token tells it)"

Result = TypeVar("Result")


class Unfetchable(Exception):
    """Telegram will never give this file."""


class _Session(AiohttpSession):
    """A connection for each call: one that lay idle may be dead, and a message sent on it would be in doubt."""

    def __init__(self, server: TelegramAPIServer) -> None:
        super().__init__(api=server, timeout=CALL_S_MAX)
        self._connector_init["force_close"] = True


class Api:
    """The bot, once there is a token."""

    def __init__(self, api_url: str) -> None:
        """`api_url`: "" = Telegram's own server."""
        self._server = TelegramAPIServer.from_base(api_url) if api_url else PRODUCTION
        self._bot: Bot | None = None
        self._session = _Session(self._server)

    def use(self, token: str) -> None:
        """From now on this token. Raises LoggedOut: it is none."""
        if self._bot is None or self._bot.token != token:
            try:
                self._bot = Bot(token, self._session)
            except TokenValidationError:
                raise LoggedOut(
                    "the secret is no bot's token, which looks like 123456:ABC-DEF; @BotFather tells it"
                ) from None

    async def call(self, method: TelegramMethod[Result], timeout_s: int | None = None) -> Result:
        """Call a method. Raises aiogram's errors; `sending_error` and `polling_error` say what they mean."""
        if self._bot is None:
            raise NotSent("not connected")
        return await self._bot(method, timeout_s)

    async def file(self, file_id: str, bytes_max: int) -> bytes:
        """A file, at most `bytes_max` and one more byte of it.

        :raises Unfetchable: it is never to be had.
        :raises Unreachable: not at present.
        """
        try:
            found = await self.call(GetFile(file_id=file_id))
            if self._bot is None or not found.file_path:
                raise Unfetchable("Telegram does not say where it is")
            url = self._server.file_url(self._bot.token, found.file_path)
            session = await self._session.create_session()
            async with session.get(url, timeout=ClientTimeout(total=DOWNLOAD_S_MAX), raise_for_status=True) as answer:
                data = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    data += chunk
                    if len(data) > bytes_max:
                        break
                return bytes(data[: bytes_max + 1])
        except TelegramBadRequest as error:
            raise Unfetchable(reason_of(error)) from None
        except ClientResponseError as error:
            if 400 <= error.status < 500 and error.status != 429:
                raise Unfetchable(f"HTTP status {error.status}") from None
            raise Unreachable(f"a file can't be fetched: HTTP status {error.status}") from None
        except (AiogramError, ClientError, TimeoutError) as error:
            raise polling_error(error) from None

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


def sending_error(error: Exception) -> NotSent | Unsure | Rejected:
    """What a failed send means for the message."""
    match error:
        case NotSent() | Unsure() | Rejected():
            return error
        case TelegramRetryAfter():
            return NotSent("too fast", float(error.retry_after))
        case TelegramEntityTooLarge() | TelegramBadRequest() | TelegramForbiddenError():
            return Rejected(f"Telegram refuses it: {reason_of(error)}")
        case TelegramUnauthorizedError() | TelegramNotFound() | TelegramConflictError():
            # Polling sees the same and tells the owner.
            return NotSent(reason_of(error))
        case TelegramNetworkError() if isinstance(error.__cause__, ClientConnectorError):
            return NotSent(f"Telegram can't be reached: {reason_of(error)}")
        case _:
            # 5xx, a broken connection, an answer that can't be read: it may have been taken.
            return Unsure(reason_of(error))


def polling_error(error: Exception, secret: str = "telegram") -> Unreachable | LoggedOut:  # noqa: S107 - its name
    """What a failed call means for the connection. `secret` is the name of the one that holds the token."""
    match error:
        case Unreachable() | LoggedOut():
            return error
        case TelegramUnauthorizedError() | TelegramNotFound():
            return LoggedOut(_REFUSED.format(name=secret))
        case TelegramConflictError():
            return Unreachable(_WEBHOOK if "webhook" in error.message.casefold() else _CONFLICT)
        case TelegramRetryAfter():
            return Unreachable("Telegram wants to be left alone for a while", float(error.retry_after))
        case TelegramServerError():
            return Unreachable(f"Telegram has a trouble of its own: {reason_of(error)}")
        case _:
            return Unreachable(f"Telegram can't be reached: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """One line without the token."""
    match error:
        case ClientDecodeError():
            text = "an answer that can't be read"
        case TelegramAPIError():
            text = error.message
        case TimeoutError() | asyncio.TimeoutError():
            text = "no answer in time"
        case _:
            text = str(error) or type(error).__name__
    return _TOKEN.sub("bot…", " ".join(text.split()))[:300]
