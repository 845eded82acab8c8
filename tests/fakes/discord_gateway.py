"""Discord's gateway, version 10: one zlib stream a connection, heartbeats, sessions that can be resumed."""

from __future__ import annotations

import asyncio
import json
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web
from tests.fakes.discord_world import BOT, GUILD, user

if TYPE_CHECKING:
    from tests.fakes.discord_server import DiscordServer

DISPATCH, HEARTBEAT, IDENTIFY, RESUME, RECONNECT, INVALID_SESSION, HELLO, HEARTBEAT_ACK = 0, 1, 2, 6, 7, 9, 10, 11


class Wire:
    """One connection."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.ws = ws
        self._request = request
        self._deflate = zlib.compressobj()
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send())

    def say(self, op: int, data: Any = None, seq: int | None = None, name: str | None = None) -> None:
        payload = json.dumps({"op": op, "d": data, "s": seq, "t": name}).encode()
        whole = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        # Discord may cut a message into several frames.
        self._out.put_nowait(whole[:100])
        if whole[100:]:
            self._out.put_nowait(whole[100:])

    def abort(self) -> None:
        self._sending.cancel()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self, code: int) -> None:
        self._sending.cancel()
        await self.ws.close(code=code, message=b"closed by the test")

    async def _send(self) -> None:
        with suppress(ConnectionError):
            while True:
                await self.ws.send_bytes(await self._out.get())


@dataclass
class Session:
    """What a bot may resume: everything told since it began."""

    wire: Wire | None
    told: list[tuple[str, Any]] = field(default_factory=list)

    def tell(self, name: str, data: Any) -> None:
        self.told.append((name, data))
        if self.wire is not None:
            self.wire.say(DISPATCH, data, len(self.told), name)


class Gateway:
    """All sessions. A test sets what is to go wrong."""

    def __init__(self, server: DiscordServer, heartbeat_ms: int) -> None:
        self._server = server
        self.heartbeat_ms = heartbeat_ms
        self.sessions: dict[str, Session] = {}
        #: What clients did, in order: IDENTIFY, RESUME.
        self.seen: list[str] = []
        #: The query of the last connection, and the intents asked for last.
        self.query: dict[str, str] = {}
        self.intents = 0
        self.heartbeats = 0
        #: Connections that were asked for.
        self.tries = 0
        self.calm()
        #: A message is told after the next one of another channel, by chance.
        self._held: tuple[str, Any] | None = None

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        #: Close every IDENTIFY with this code.
        self.closes_with = 0
        #: Heartbeats are not acknowledged.
        self.is_deaf = False
        #: Nothing that happens is told (Discord promises to tell most things, not all).
        self.is_silent = False
        #: Nobody can connect.
        self.is_down = False

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/gateway/", self._serve)
        app.router.add_get("/gateway/resume/", self._serve)

    def tell(self, name: str, data: Any) -> None:
        """An event, to every session."""
        if self.is_silent:
            return
        chance = self._server.chance
        held, self._held = self._held, None
        if chance and held is None and chance.random() < 0.1:
            self._held = (name, data)
            asyncio.get_running_loop().call_later(0.05, self._tell_held)
            return
        in_order = held is not None and held[1].get("channel_id") == data.get("channel_id")
        for each in (held, (name, data)) if in_order else ((name, data), held):
            if each is not None:
                self._tell_all(*each)
                if chance and chance.random() < 0.1:
                    # The platform repeats.
                    self._tell_all(*each)

    def _tell_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._tell_all(*held)

    def _tell_all(self, name: str, data: Any) -> None:
        for session in list(self.sessions.values()):
            session.tell(name, data)
            if session.wire is not None and self._server.chance and self._server.chance.random() < 0.02:
                session.wire.abort()
                session.wire = None

    @property
    def wires(self) -> list[Wire]:
        return [session.wire for session in self.sessions.values() if session.wire is not None]

    def drop(self) -> None:
        """Cut every connection; the sessions can be resumed."""
        for session in self.sessions.values():
            if session.wire is not None:
                session.wire.abort()
                session.wire = None

    def forget(self) -> None:
        """No session can be resumed any more, and nobody is told why."""
        self.drop()
        self.sessions.clear()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.tries += 1
        if self.is_down:
            raise web.HTTPServiceUnavailable
        self.query = dict(request.query)
        ws = web.WebSocketResponse(max_msg_size=4096)
        await ws.prepare(request)
        wire = Wire(ws, request)
        wire.say(HELLO, {"heartbeat_interval": self.heartbeat_ms})
        session: Session | None = None
        with suppress(ConnectionError):
            async for frame in ws:
                if frame.type is not WSMsgType.BINARY and frame.type is not WSMsgType.TEXT:
                    break
                said = json.loads(frame.data)
                if said["op"] == HEARTBEAT:
                    self.heartbeats += 1
                    if not self.is_deaf:
                        wire.say(HEARTBEAT_ACK)
                elif said["op"] == IDENTIFY:
                    self.seen.append("IDENTIFY")
                    if self.closes_with or said["d"]["token"] != self._server.rest.token:
                        await wire.close(self.closes_with or 4004)
                        break
                    self.intents = said["d"]["intents"]
                    session = self._begin(wire)
                elif said["op"] == RESUME:
                    self.seen.append("RESUME")
                    session = self._resume(wire, said["d"])
        if session is not None and session.wire is wire:
            session.wire = None
        wire.abort()
        return ws

    def _begin(self, wire: Wire) -> Session:
        name = f"session-{len(self.seen)}"
        self.sessions[name] = session = Session(wire)
        session.tell("READY", {
            "v": 10, "user": user(BOT), "session_id": name, "guilds": [{"id": str(GUILD), "unavailable": True}],
            "resume_gateway_url": f"ws://127.0.0.1:{self._server.port}/gateway/resume/", "shard": [0, 1],
            "application": {"id": str(BOT), "flags": 1 << 19},
        })
        session.tell("GUILD_CREATE", self._server.guild())
        return session

    def _resume(self, wire: Wire, wanted: dict[str, Any]) -> Session | None:
        session = self.sessions.get(wanted["session_id"])
        if session is None:
            wire.say(INVALID_SESSION, False)
            return None
        for number, (name, data) in enumerate(session.told[wanted["seq"]:], wanted["seq"] + 1):
            wire.say(DISPATCH, data, number, name)
        session.wire = wire
        session.tell("RESUMED", {})
        return session
