"""The Bot API over HTTP as Telegram speaks it: updates wait until an offset acknowledges them, one poll at a time, HTML
is checked. What goes wrong is said by the test, or by chance."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from aiohttp import web

TOKEN = "4242:test-token"
BOT = {"id": 4242, "is_bot": True, "first_name": "Crab", "username": "crab_bot", "can_join_groups": True}
ANN = {"id": 7, "is_bot": False, "first_name": "Ann", "last_name": "Lee", "username": "ann"}
TAGS = {"b", "i", "s", "u", "a", "code", "pre", "blockquote"}
TEXT_UNITS_MAX = 4096


@dataclass
class Sent:
    """A message that the bot sent, as it stands now."""

    method: str
    chat_id: int
    message_id: int
    #: As people see it: HTML is gone.
    text: str
    html: str = ""
    thread: int | None = None
    reply: dict[str, Any] | None = None
    file: bytes = b""
    file_name: str = ""
    edits: int = 0


@dataclass
class Fault:
    """What goes wrong with the next call of a method."""

    status: int
    description: str = "Internal Server Error"
    parameters: dict[str, Any] = field(default_factory=dict)


class TelegramServer:
    """One bot's server."""

    def __init__(self, chance: random.Random | None = None) -> None:
        #: Faults happen by themselves only with a source of chance.
        self.chance = chance
        self.token = TOKEN
        self.port = 0
        self.sent: list[Sent] = []
        #: Chat, id and text of the drafts shown, in order.
        self.drafts: list[tuple[int, int, str]] = []
        #: Every call: method and its fields.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        #: What goes wrong next, by method.
        self.faults: dict[str, list[Fault]] = {}
        #: Texts whose answer is lost, once: the message is taken.
        self.breaks_after: set[str] = set()
        #: Groups that are supergroups now.
        self.moved: dict[int, int] = {}
        self.files: dict[str, bytes] = {}
        self.webhook = ""
        #: Raw updates that no poll has acknowledged.
        self.waiting: list[dict[str, Any]] = []
        #: Acknowledged by an offset.
        self.acknowledged: list[int] = []
        self._numbers = itertools.count(100)
        self._messages = itertools.count(1)
        self._more = asyncio.Event()
        self._poll: asyncio.Event | None = None
        self._last: list[dict[str, Any]] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> TelegramServer:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/bot{token}/{method}", self._call)
        app.router.add_get("/file/bot{token}/{path:.*}", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            self._more.set()
            await self._runner.cleanup()

    # --- what people do ---------------------------------------------------------------------------------------

    def says(self, text: str, chat: int = 7, who: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Somebody writes. Returns the message."""
        message = {
            "message_id": next(self._messages), "date": int(time.time()), "from": who or ANN, "chat": chat_of(chat),
        }
        if text:
            message["text"] = text
        message |= more
        self.update(message=message)
        return message

    def edits(self, message: dict[str, Any], text: str) -> None:
        self.update(edited_message=message | {"text": text, "edit_date": int(time.time())})

    def update(self, **what: Any) -> int:
        number = next(self._numbers)
        self.waiting.append({"update_id": number, **what})
        self._more.set()
        return number

    def texts(self, chat: int) -> list[str]:
        return [each.text for each in self.sent if each.chat_id == chat]

    def called(self, method: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.calls if name == method]

    # --- the protocol -----------------------------------------------------------------------------------------

    async def _call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        fields: dict[str, Any] = {}
        for key, value in (await request.post()).items():
            fields[key] = value if isinstance(value, web.FileField) else str(value)
        self.calls.append((method, fields))
        if request.match_info["token"] != self.token:
            return _error(401, "Unauthorized")
        if faults := self.faults.get(method):
            fault = faults.pop(0)
            return _error(fault.status, fault.description, **fault.parameters)
        handler: Callable[..., Any] | None = getattr(self, f"_on_{method}", None)
        if handler is None:
            return _error(404, "Not Found: method not found")
        if self.chance and method != "getMe" and (wrong := self._by_chance(method, request)) is not None:
            return wrong
        result = await handler(request, fields)
        return result if isinstance(result, web.StreamResponse) else web.json_response({"ok": True, "result": result})

    def _by_chance(self, method: str, request: web.Request) -> web.StreamResponse | None:
        assert self.chance
        lot = self.chance.random()
        if lot < 0.02:
            return _error(500, "Internal Server Error")
        if lot < 0.05:
            return _error(429, "Too Many Requests: retry after 1", retry_after=1) if method != "getUpdates" else None
        if lot < 0.07:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return None

    async def _on_getMe(self, _request: web.Request, _fields: dict[str, Any]) -> Any:
        return BOT

    async def _on_setMyCommands(self, _request: web.Request, _fields: dict[str, Any]) -> Any:
        return True

    async def _on_sendChatAction(self, _request: web.Request, _fields: dict[str, Any]) -> Any:
        return True

    async def _on_getUpdates(self, request: web.Request, fields: dict[str, Any]) -> Any:
        if self.webhook:
            return _error(409, "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook first")
        # Only one may poll: the newer ends the older.
        if self._poll is not None:
            self._poll.set()
        self._poll = mine = asyncio.Event()
        offset, limit = int(fields.get("offset", 0)), int(fields.get("limit", 100))
        if offset:
            self.acknowledged += [each["update_id"] for each in self.waiting if each["update_id"] < offset]
            self.waiting = [each for each in self.waiting if each["update_id"] >= offset]
        until = time.monotonic() + float(fields.get("timeout", 0))
        while not self.waiting and (left := until - time.monotonic()) > 0 and not mine.is_set():
            self._more.clear()
            waits = [asyncio.ensure_future(self._more.wait()), asyncio.ensure_future(mine.wait())]
            try:
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if mine.is_set():
            return _error(409, "Conflict: terminated by other getUpdates request; make sure that only one bot instance "
                               "is running")
        self._poll = None
        found = self.waiting[:limit]
        if self.chance:
            if self.chance.random() < 0.2:
                found = [*self._last, *found][-limit:]  # it repeats
            if self.chance.random() < 0.3:
                self.chance.shuffle(found)
            self._last = self.waiting[:3]
        return found

    async def _on_sendMessage(self, request: web.Request, fields: dict[str, Any]) -> Any:
        html = fields.get("text", "") if fields.get("parse_mode") == "HTML" else ""
        try:
            text = shown(html) if html else fields.get("text", "")
        except ValueError as error:
            return _error(400, f"Bad Request: can't parse entities: {error}")
        if not text.strip():
            return _error(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > TEXT_UNITS_MAX:
            return _error(400, "Bad Request: message is too long")
        return await self._take("sendMessage", request, fields, text, html)

    async def _on_sendMessageDraft(self, _request: web.Request, fields: dict[str, Any]) -> Any:
        if int(fields["chat_id"]) < 0:
            return _error(400, "Bad Request: chat is not a private chat")
        try:
            text = shown(fields["text"]) if fields.get("parse_mode") == "HTML" else fields["text"]
        except ValueError as error:
            return _error(400, f"Bad Request: can't parse entities: {error}")
        self.drafts.append((int(fields["chat_id"]), int(fields["draft_id"]), text))
        return True

    async def _on_editMessageText(self, request: web.Request, fields: dict[str, Any]) -> Any:
        sent = self._sent(fields)
        if sent is None:
            return _error(400, "Bad Request: message to edit not found")
        html = fields.get("text", "") if fields.get("parse_mode") == "HTML" else ""
        try:
            text = shown(html) if html else fields["text"]
        except ValueError as error:
            return _error(400, f"Bad Request: can't parse entities: {error}")
        if text == sent.text:
            return _error(400, "Bad Request: message is not modified")
        sent.text, sent.html = text, html
        sent.edits += 1
        if text in self.breaks_after:
            self.breaks_after.discard(text)
            assert request.transport is not None
            request.transport.abort()
        return {"message_id": sent.message_id, "date": 1, "chat": chat_of(sent.chat_id), "from": BOT, "text": text}

    async def _on_deleteMessage(self, _request: web.Request, fields: dict[str, Any]) -> Any:
        sent = self._sent(fields)
        if sent is None:
            return _error(400, "Bad Request: message to delete not found")
        self.sent.remove(sent)
        return True

    def _sent(self, fields: dict[str, Any]) -> Sent | None:
        wanted = (int(fields["chat_id"]), int(fields["message_id"]))
        return next((each for each in self.sent if (each.chat_id, each.message_id) == wanted), None)

    async def _on_sendPhoto(self, request: web.Request, fields: dict[str, Any]) -> Any:
        return await self._take("sendPhoto", request, fields, "", "", "photo")

    async def _on_sendDocument(self, request: web.Request, fields: dict[str, Any]) -> Any:
        return await self._take("sendDocument", request, fields, "", "", "document")

    async def _take(
        self, method: str, request: web.Request, fields: dict[str, Any], text: str, html: str, file: str = ""
    ) -> Any:
        chat_id = int(fields["chat_id"])
        if chat_id in self.moved:
            return _error(
                400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=self.moved[chat_id]
            )
        sent = Sent(
            method, chat_id, next(self._messages), text, html,
            thread=int(fields["message_thread_id"]) if "message_thread_id" in fields else None,
            reply=json.loads(fields["reply_parameters"]) if "reply_parameters" in fields else None,
        )
        if file:
            name = str(fields[file]).removeprefix("attach://")
            field_ = fields.get(name)
            assert isinstance(field_, web.FileField)
            sent.file, sent.file_name = field_.file.read(), field_.filename
        self.sent.append(sent)
        if text in self.breaks_after or (self.chance and self.chance.random() < 0.04):
            self.breaks_after.discard(text)
            assert request.transport is not None
            request.transport.abort()
        return {"message_id": sent.message_id, "date": int(time.time()), "chat": chat_of(chat_id), "from": BOT}

    async def _on_getFile(self, _request: web.Request, fields: dict[str, Any]) -> Any:
        file_id = fields["file_id"]
        if file_id not in self.files:
            return _error(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        return {"file_id": file_id, "file_unique_id": file_id, "file_path": f"documents/{file_id}"}

    async def _file(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["token"] != self.token:
            return web.Response(status=401)
        if faults := self.faults.get("file"):
            return web.Response(status=faults.pop(0).status)
        data = self.files.get(request.match_info["path"].removeprefix("documents/"))
        return web.Response(body=data) if data is not None else web.Response(status=404)


def chat_of(chat: int) -> dict[str, Any]:
    """Positive = a person, negative = a group."""
    if chat > 0:
        return {"id": chat, "type": "private", "first_name": f"P{chat}"}
    return {"id": chat, "type": "supergroup", "title": f"Group {-chat}", "is_forum": True}


def shown(html: str) -> str:
    """The text of Telegram's HTML. Raises ValueError where Telegram would refuse it."""
    reading = _Html()
    reading.feed(html)
    reading.close()
    if reading.open:
        raise ValueError(f"can't find end tag corresponding to start tag {reading.open[-1]!r}")
    return "".join(reading.text)


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise ValueError(f'unsupported start tag "{tag}"')
        if tag == "blockquote" and tag in self.open:
            raise ValueError("blockquotes can't be nested")
        if "code" in self.open or ("pre" in self.open and tag != "code"):
            raise ValueError(f"{tag} in code")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f'unexpected end tag "{tag}"')

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise ValueError("unsupported start tag")

    def handle_decl(self, decl: str) -> None:
        raise ValueError("unsupported start tag")

    def handle_pi(self, data: str) -> None:
        raise ValueError("unsupported start tag")


def _error(status: int, description: str, **parameters: Any) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if parameters:
        body["parameters"] = parameters
    return web.json_response(body, status=status)
