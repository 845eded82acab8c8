"""The made-up platform that `chirp_connector` talks to: keeps what it was sent, repeats what was not acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any


class ChirpServer:
    """Messages from people wait until they are acknowledged; what is sent is kept under its key."""

    def __init__(self, chance: random.Random | None = None) -> None:
        #: Faults happen only with a source of chance.
        self.chance = chance
        self.people: list[dict[str, Any]] = []
        #: In the order of arrival: (key, chat, text). A key that comes twice is here twice.
        self.sent: list[tuple[str, str, str]] = []
        #: Answers to "find" say that nobody can tell.
        self.forgetful = False
        #: Texts that are never taken.
        self.refuses: set[str] = set()
        #: The connection breaks after the message was taken and before the answer, once for each of these texts.
        self.breaks_after: set[str] = set()
        self.retry_after: list[float] = []
        #: Messages that the connector said it has, and how often a connection was taken in.
        self.acknowledged: list[int] = []
        self.welcomed = 0
        self.refused_token = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._more = asyncio.Event()

    async def start(self) -> ChirpServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()
            async with asyncio.timeout(10):
                while self._open:
                    await asyncio.sleep(0.01)

    def drop(self) -> None:
        """Cut every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    def says(self, chat: str, text: str, at: int) -> None:
        """Somebody writes in a chat."""
        self.people.append({"n": len(self.people) + 1, "chat": chat, "from": "ann", "text": text, "at": at})
        self._more.set()

    def repeats(self, number: int, **otherwise: str) -> None:
        """A message is told once more, with something in it changed."""
        for writer in self._open:
            self._write(writer, self.people[number - 1] | otherwise)

    @property
    def is_connected(self) -> bool:
        return self.welcomed > 0

    def texts(self, chat: str) -> list[str]:
        return [text for _key, there, text in self.sent if there == chat]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        tell: asyncio.Task[None] | None = None
        # A client that is killed leaves half a line.
        with suppress(ConnectionError, json.JSONDecodeError):
            while line := await reader.readline():
                said = json.loads(line)
                if "hello" in said:
                    if self.refused_token:
                        self._write(writer, {"refused": self.refused_token})
                        break
                    self.welcomed += 1
                    self._write(writer, {"welcome": "bird"})
                    tell = asyncio.create_task(self._tell(writer, said["after"]))
                elif "ack" in said:
                    self.acknowledged.append(said["ack"])
                elif "send" in said:
                    self._take(writer, said)
                elif "find" in said:
                    found = next((str(at) for at, sent in enumerate(self.sent) if sent[0] == said["find"]), "")
                    self._write(writer, {"key": said["find"], "id": found, "forgetful": self.forgetful})
                if self.chance and self.chance.random() < 0.02:
                    writer.transport.abort()
        if tell is not None:
            tell.cancel()
        self._open.discard(writer)
        writer.close()

    def _take(self, writer: asyncio.StreamWriter, said: dict[str, Any]) -> None:
        key, text = said["send"], said["text"]
        if self.retry_after or (self.chance and self.chance.random() < 0.05):
            wait = self.retry_after.pop(0) if self.retry_after else 0.05
            self._write(writer, {"key": key, "retry_after": wait})
        elif text in self.refuses:
            self._write(writer, {"key": key, "refused": "not here"})
        else:
            self.sent.append((key, said["chat"], text))
            if text in self.breaks_after or (self.chance and self.chance.random() < 0.05):
                self.breaks_after.discard(text)
                writer.transport.abort()
            else:
                self._write(writer, {"key": key, "id": str(len(self.sent) - 1)})

    async def _tell(self, writer: asyncio.StreamWriter, after: int) -> None:
        while True:
            for message in self.people[after:]:
                self._write(writer, message)
                after = message["n"]
                if self.chance and self.chance.random() < 0.1:
                    # A platform repeats.
                    self._write(writer, message)
            self._more.clear()
            await self._more.wait()

    @staticmethod
    def _write(writer: asyncio.StreamWriter, what: dict[str, Any]) -> None:
        writer.write(json.dumps(what).encode() + b"\n")
