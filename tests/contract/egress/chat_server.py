"""A real WebSocket server outside, by aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLContext

from aiohttp import WSMsgType, web


class Chat:
    """A WebSocket server that says everything back; what it was sent, and how its connections ended."""

    def __init__(self) -> None:
        self.heads: list[dict[str, str]] = []
        self.heard: list[str | bytes] = []
        self.compressed: list[int] = []
        self.ended = 0

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.heads.append({name.lower(): value for name, value in request.headers.items()})
        if request.path == "/no":
            return web.Response(status=401, text="who are you?")
        socket = web.WebSocketResponse(compress=True, max_msg_size=0)
        await socket.prepare(request)
        self.compressed.append(socket.compress)
        try:
            async for message in socket:
                self.heard.append(message.data)
                if message.data == "bye":
                    break
                if message.data == "whoami":
                    await socket.send_str(f"you are {request.headers.get('authorization')}")
                elif message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                else:
                    await socket.send_bytes(message.data)
        finally:
            self.ended += 1
        return socket

    @asynccontextmanager
    async def running(self, tls: SSLContext | None) -> AsyncIterator[int]:
        """Its port."""
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        try:
            yield site._server.sockets[0].getsockname()[1]
        finally:
            await runner.cleanup()
