"""Discord's REST interface, version 10, as far as a chatting bot uses it: with rate limits, nonces and faults."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web
from tests.fakes.discord_world import BOT, TOKEN

if TYPE_CHECKING:
    from tests.fakes.discord_server import DiscordServer

#: Messages that a channel takes in its period.
LIMIT = 5
TEXT_MAX = 2000
FILE_BYTES_MAX = 10 << 20


class Rest:
    """The routes. A test sets what is to go wrong."""

    def __init__(self, server: DiscordServer) -> None:
        self._server = server
        self.token = TOKEN
        #: Every request, in order: method, path.
        self.asked: list[tuple[str, str]] = []
        #: Bodies of messages taken, as they came.
        self.bodies: list[dict[str, Any]] = []
        self.calm()
        self.nonces: dict[tuple[int, str], dict[str, Any]] = {}
        #: Changes of messages taken: id, text.
        self.edits: list[tuple[str, str]] = []
        self.typing: list[int] = []
        #: How often a channel's own limit was not kept.
        self.refused = 0
        #: By channel: when its period began, and how much was taken in it.
        self._used: dict[int, tuple[float, int]] = {}

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        #: A channel takes `LIMIT` messages in so long.
        self.period_s = 0.2
        #: Answer the next messages with 429: seconds to wait, and whether for everything.
        self.retry_after: list[tuple[float, bool]] = []
        #: Answer the next messages with this status, nothing taken.
        self.fails_with: list[int] = []
        #: The message is taken and the connection breaks before the answer, once for each of these texts.
        self.breaks_after: set[str] = set()
        #: The same, with a 500 for an answer.
        self.fails_after: set[str] = set()
        #: So many last messages are not in the history yet.
        self.history_lag = 0
        #: So many next looks into a history fail.
        self.history_fails = 0
        #: Channels in which the bot may not read the history, or not send.
        self.hidden: set[int] = set()
        self.mute: set[int] = set()
        #: Files are given out only after this.
        self.files_wait: asyncio.Event | None = None

    @property
    def posts(self) -> int:
        """How often the bot asked us to take a message."""
        return sum(method == "POST" and path.endswith("/messages") for method, path in self.asked)

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/gateway/bot", self._gateway)
        app.router.add_get("/channels/{channel}", self._channel)
        app.router.add_get("/channels/{channel}/messages", self._history)
        app.router.add_get("/channels/{channel}/messages/{message}", self._message)
        app.router.add_post("/channels/{channel}/messages", self._send)
        app.router.add_patch("/channels/{channel}/messages/{message}", self._edit)
        app.router.add_delete("/channels/{channel}/messages/{message}", self._delete)
        app.router.add_post("/channels/{channel}/typing", self._typing)
        app.router.add_get("/attachments/{number}/{name}", self._file)

    async def _gateway(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({
            "url": f"ws://127.0.0.1:{self._server.port}/gateway/", "shards": 1,
            "session_start_limit": {"total": 1000, "remaining": 999, "reset_after": 1000, "max_concurrency": 1},
        })

    async def _channel(self, request: web.Request) -> web.Response:
        return web.json_response(self._server.channels[self._note(request)])

    async def _history(self, request: web.Request) -> web.Response:
        channel = self._note(request)
        if self.history_fails or self._chance(0.05):
            self.history_fails = max(self.history_fails - 1, 0)
            raise web.HTTPBadGateway
        found = self._server.messages[channel]
        found = found[: len(found) - self.history_lag]
        limit = int(request.query.get("limit", "50"))
        if "after" in request.query:
            found = [each for each in found if int(each["id"]) > int(request.query["after"])][:limit]
        else:
            before = int(request.query.get("before", str(1 << 63)))
            found = [each for each in found if int(each["id"]) < before][-limit:]
        return web.json_response(found[::-1])

    async def _message(self, request: web.Request) -> web.Response:
        return web.json_response(self._named(request))

    async def _edit(self, request: web.Request) -> web.Response:
        message, body = self._named(request), await request.json()
        if self._chance(0.05):
            raise web.HTTPBadGateway
        check(body["content"], [])
        self.edits.append((message["id"], body["content"]))
        self._server.edits(message, body["content"])
        if self._chance(0.05) or body["content"] in self.fails_after:
            self.fails_after.discard(body["content"])
            raise web.HTTPBadGateway
        return web.json_response(message)

    async def _delete(self, request: web.Request) -> web.Response:
        message = self._named(request)
        self._server.messages[int(message["channel_id"])].remove(message)
        return web.Response(status=204)

    def _named(self, request: web.Request) -> dict[str, Any]:
        channel = self._note(request)
        for message in self._server.messages[channel]:
            if message["id"] == request.match_info["message"]:
                return message
        raise refusal(404, 10008, "Unknown Message")

    async def _typing(self, request: web.Request) -> web.Response:
        self.typing.append(self._note(request))
        return web.Response(status=204)

    async def _file(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        if request.path not in self._server.files:
            raise web.HTTPNotFound
        if self.files_wait is not None:
            await self.files_wait.wait()
        return web.Response(body=self._server.files[request.path], content_type="application/octet-stream")

    async def _send(self, request: web.Request) -> web.Response:
        channel = self._note(request)
        if (turned_away := self._turned_away(channel)) is not None:
            return turned_away
        headers = self._limits(channel)
        if isinstance(headers, web.Response):
            return headers
        body, files = await read_body(request)
        text = body.get("content") or ""
        check(text, files)
        message = self._take(channel, body, files)
        if text in self.breaks_after or self._chance(0.03):
            self.breaks_after.discard(text)
            if request.transport is not None:
                request.transport.abort()
            await asyncio.sleep(0)
        if text in self.fails_after or self._chance(0.03):
            self.fails_after.discard(text)
            raise web.HTTPInternalServerError
        return web.json_response(message, headers=headers)

    def _turned_away(self, channel: int) -> web.Response | None:
        """Nothing is taken, for a reason that has nothing to do with the message."""
        if channel in self.mute:
            raise refusal(403, 50013, "Missing Permissions")
        if self.retry_after:
            seconds, everywhere = self.retry_after.pop(0)
            return too_fast(seconds, everywhere=everywhere)
        if self.fails_with:
            raise refusal(self.fails_with.pop(0), 0, "upstream")
        if self._chance(0.03):
            return too_fast(0.05, everywhere=self._chance(0.5))
        if self._chance(0.03):
            raise web.HTTPBadGateway
        return None

    def _take(self, channel: int, body: dict[str, Any], files: list[tuple[str, bytes]]) -> dict[str, Any]:
        nonce = str(body.get("nonce", ""))
        assert len(nonce) <= 25
        if body.get("enforce_nonce") and (channel, nonce) in self.nonces:
            return self.nonces[(channel, nonce)]
        text = body.get("content") or ""
        message = self._server.message(channel, text.strip(), BOT)
        # The name counts that the body gives, with what Discord does not like in it replaced.
        named = [str(each["filename"]).replace(" ", "_") for each in body.get("attachments", ())]
        message["attachments"] = [
            self._server.attachment(name, data) for name, (_, data) in zip(named, files, strict=True)
        ]
        if reference := body.get("message_reference"):
            message |= {"type": 19, "message_reference": {"channel_id": str(channel), **reference}}
        self._server.sent.append((nonce, channel, text))
        self.bodies.append(body)
        self._server.add(message, nonce)
        self.nonces[(channel, nonce)] = message | {"nonce": nonce}
        return message | {"nonce": nonce}

    def _limits(self, channel: int) -> dict[str, str] | web.Response:
        now = time.time()
        began, used = self._used.get(channel, (now, 0))
        if now >= began + self.period_s:
            began, used = now, 0
        reset_after = began + self.period_s - now
        if used >= LIMIT:
            self.refused += 1
            return too_fast(reset_after, everywhere=False, channel=channel)
        self._used[channel] = (began, used + 1)
        return limit_headers(channel, LIMIT - used - 1, reset_after)

    def _note(self, request: web.Request) -> int:
        self.asked.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bot {self.token}":
            raise refusal(401, 0, "401: Unauthorized")
        channel = int(request.match_info.get("channel", "0"))
        if channel and channel not in self._server.channels:
            raise refusal(404, 10003, "Unknown Channel")
        if channel in self.hidden and request.method == "GET":
            raise refusal(403, 50001, "Missing Access")
        return channel

    def _chance(self, share: float) -> bool:
        return self._server.chance is not None and self._server.chance.random() < share


def check(text: str, files: list[tuple[str, bytes]]) -> None:
    """What Discord never takes."""
    if len(text) > TEXT_MAX:
        raise refusal(400, 50035, "Invalid Form Body")
    if not text.strip() and not files:
        raise refusal(400, 50006, "Cannot send an empty message")
    if any(len(data) > FILE_BYTES_MAX for _name, data in files):
        raise refusal(413, 40005, "Request entity too large")


async def read_body(request: web.Request) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """The message, and the files that came with it."""
    if request.content_type != "multipart/form-data":
        return await request.json(), []
    body: dict[str, Any] = {}
    files: list[tuple[str, bytes]] = []
    async for part in await request.multipart():
        data = bytes(await part.read())  # type: ignore[union-attr]
        if part.name == "payload_json":
            body = json.loads(data)
        else:
            files.append((part.filename or "", data))  # type: ignore[union-attr]
    return body, files


def refusal(status: int, code: int, reason: str) -> web.HTTPException:
    answer = web.HTTPException(text=json.dumps({"message": reason, "code": code}), content_type="application/json")
    answer.set_status(status)
    return answer


def limit_headers(channel: int, remaining: int, reset_after: float) -> dict[str, str]:
    return {
        "X-RateLimit-Bucket": "messages", "X-RateLimit-Limit": str(LIMIT), "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": f"{time.time() + reset_after:.3f}", "X-RateLimit-Reset-After": f"{reset_after:.3f}",
    }


def too_fast(seconds: float, *, everywhere: bool, channel: int | None = None) -> web.Response:
    headers = {"Retry-After": f"{seconds:.3f}", "X-RateLimit-Scope": "global" if everywhere else "shared"}
    if channel is not None:
        headers |= limit_headers(channel, 0, seconds) | {"X-RateLimit-Scope": "user"}
    return web.json_response(
        {"message": "You are being rate limited.", "retry_after": seconds, "global": everywhere}, status=429,
        headers=headers,
    )
