"""What each of Telegram's refusals means: certainly not sent, never to be sent, or nobody knows."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import GetMe
from aiogram.types import Update, User
from sqlalchemy.exc import OperationalError
from tests.fakes.telegram_server import TOKEN, Fault, TelegramServer

from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.platform import NotSent, Rejected, Unsure
from microclaw.telegram.api import Api, Unfetchable, polling_error, reason_of, sending_error
from microclaw.telegram.polling import Polling


async def failure(api: Api) -> Exception:
    with pytest.raises(Exception) as caught:
        await api.call(GetMe())
    return caught.value


@pytest.mark.parametrize(("fault", "sending", "polling"), [
    (Fault(400, "Bad Request: chat not found"), Rejected, Unreachable),
    (Fault(401, "Unauthorized"), NotSent, LoggedOut),
    (Fault(403, "Forbidden: bot was kicked from the group chat"), Rejected, Unreachable),
    (Fault(404, "Not Found"), NotSent, LoggedOut),
    (Fault(409, "Conflict: terminated by other getUpdates request"), NotSent, Unreachable),
    (Fault(413, "Request Entity Too Large"), Rejected, Unreachable),
    (Fault(429, "Too Many Requests", {"retry_after": 7}), NotSent, Unreachable),
    (Fault(500, "Internal Server Error"), Unsure, Unreachable),
    (Fault(502, "Bad Gateway"), Unsure, Unreachable),
])
async def test_a_refusal_means(fault: Fault, sending: type[Exception], polling: type[Exception]) -> None:
    server = await TelegramServer().start()
    server.faults["getMe"] = [fault]
    async with Api(server.url) as api:
        api.use(TOKEN)
        error = await failure(api)
        assert type(sending_error(error)) is sending
        assert type(polling_error(error)) is polling
        if fault.parameters:
            assert getattr(sending_error(error), "retry_after_s", None) == 7.0
            assert getattr(polling_error(error), "retry_after_s", None) == 7.0
    await server.stop()


async def test_a_connection_that_was_refused_is_certain_and_one_that_broke_or_says_nonsense_is_not() -> None:
    mood = ["break"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if mood[0] == "nonsense":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ok>")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Api(f"http://127.0.0.1:{port}") as api:
        api.use(TOKEN)
        assert type(sending_error(await failure(api))) is Unsure
        mood[0] = "nonsense"
        assert type(sending_error(await failure(api))) is Unsure
        server.close()
        await server.wait_closed()
        found = sending_error(await failure(api))
        assert type(found) is NotSent
        assert "can't be reached" in str(found)


async def test_without_a_token_nothing_is_sent_and_a_file_that_is_gone_is_not_asked_for_for_ever() -> None:
    server = await TelegramServer().start()
    server.files["doc"] = b"text"
    async with Api(server.url) as api:
        assert type(sending_error(await failure(api))) is NotSent
        api.use(TOKEN)
        server.faults["file"] = [Fault(404)]
        with pytest.raises(Unfetchable, match="404"):
            await api.file("doc", 100)
        server.faults["file"] = [Fault(500)]
        with pytest.raises(Unreachable, match="500"):
            await api.file("doc", 100)
        assert await api.file("doc", 2) == b"tex"
    await server.stop()


def test_no_reason_holds_the_token() -> None:
    method: Any = GetMe()
    said = reason_of(TelegramAPIError(method, f"InvalidURL: https://api.telegram.org/bot{TOKEN}/getMe is\nbad"))
    assert said == "InvalidURL: https://api.telegram.org/bot…/getMe is bad"


async def test_an_update_that_meets_a_full_disk_is_not_left_out() -> None:
    """What can't be understood is; but what fails here may pass, and the update is told again."""
    taken: list[object] = []

    class Full:
        async def read(self, update: Update, _bot: User) -> None:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    async def take(*what: object) -> None:
        taken.append(what)

    settings = SimpleNamespace(channels=SimpleNamespace(telegram=SimpleNamespace(token="t")))
    channel = SimpleNamespace(
        inbound=SimpleNamespace(take=take), service=SimpleNamespace(settings=settings, trouble=taken.append),
    )
    polling = Polling(channel, Api(""), Full())  # type: ignore[arg-type]
    with pytest.raises(OperationalError):
        await polling._take(Update(update_id=7), User(id=1, is_bot=True, first_name="bot"))
    assert taken == []
