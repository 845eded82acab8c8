"""A whole connector for a made-up platform, `chirp`: docs/connectors.md walks through it, and the kit's tests run it.

JSON lines over TCP: we say {"hello": token, "after": N}; the platform says {"n": N, "chat", "from", "text", "at"};
we say {"send": key, "chat", "text"} and it answers {"sent": key, "id"}; {"find": key} is answered {"found": key, "id"}.

Run: `python -m tests.fakes.chirp_connector HOST:PORT [NAME]`, as a guest on the bus (`[bus.rights.chirp]`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from microclaw.bus.service import Service, run
from microclaw.channel.inbound import Heard
from microclaw.channel.ledger import Entry
from microclaw.channel.link import LoggedOut, Unreachable
from microclaw.channel.open import Channel, open_channel
from microclaw.channel.platform import Fate, Limits, NotSent, Rejected, Unsure
from microclaw.core.kinds import MessageReceived
from microclaw.core.token_bucket import Rate


class Chirp:
    """The platform as the kit wants it."""

    limits = Limits(text_max=200, everywhere=Rate(per_s=1000, burst=1000), chat=Rate(per_s=500, burst=100))

    def __init__(self, channel: Channel, host: str, port: int) -> None:
        self._channel = channel
        self._address = (host, port)
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}

    async def connect(self) -> None:
        """Stay connected; every message goes to the journal before the next `after` is told to the platform."""
        inbound, link = self._channel.inbound, self._channel.link
        try:
            reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 24)
        except OSError as error:
            raise Unreachable(f"chirp can't be reached: {error}") from error
        try:
            await self._say({"hello": "token", "after": int(inbound.cursor("n", "0"))})
            while line := await reader.readline():
                said = json.loads(line)
                link.event()
                if "welcome" in said:
                    link.connected(said["welcome"])
                elif "refused" in said and "key" not in said:
                    raise LoggedOut(said["refused"])
                elif "n" in said:
                    await inbound.take([Heard(self._message(said))], {"n": str(said["n"])})
                    await self._say({"ack": said["n"]})
                elif (waiting := self._answers.get(said["key"])) is not None and not waiting.done():
                    waiting.set_result(said)
        except (ConnectionError, NotSent) as error:
            raise Unreachable(f"chirp went away: {error}") from error
        finally:
            if self._writer is not None:
                self._writer.close()
            self._writer = None
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_exception(Unsure("the connection broke before the answer"))

    async def send(self, entry: Entry) -> str:
        """One part."""
        text, file = entry.part.text, entry.part.file
        if file is not None:
            text = f"{file.name}: {len(await self._channel.media.read(file))} bytes"
        answer = await self._ask("send", entry.key, chat=entry.chat, text=text)
        if "retry_after" in answer:
            raise NotSent("too fast", answer["retry_after"])
        if "refused" in answer:
            raise Rejected(answer["refused"])
        return str(answer["id"])

    async def find(self, entry: Entry) -> str | Fate:
        """The platform remembers keys, unless it says that it does not."""
        try:
            answer = await self._ask("find", entry.key)
        except Unsure as error:
            raise NotSent(str(error)) from error
        if answer.get("forgetful"):
            return Fate.UNKNOWABLE
        return str(answer["id"]) if answer["id"] else Fate.SEND_AGAIN

    def _message(self, said: dict[str, Any]) -> MessageReceived:
        return MessageReceived(
            chat=f"{self._channel.name}:{said['chat']}", platform_id=str(said["n"]), sender=said["from"],
            sender_name=said["from"], text=said["text"], sent_ms=said["at"],
        )

    async def _say(self, what: dict[str, Any]) -> None:
        if self._writer is None:
            raise NotSent("not connected")
        self._writer.write(json.dumps(what).encode() + b"\n")
        await self._writer.drain()

    async def _ask(self, verb: str, key: str, **more: object) -> dict[str, Any]:
        self._answers[key] = answer = asyncio.get_running_loop().create_future()
        try:
            await self._say({verb: key, **more})
            return await asyncio.wait_for(answer, 5.0)
        except (ConnectionError, TimeoutError) as error:
            raise Unsure(f"no answer: {type(error).__name__}") from error
        finally:
            self._answers.pop(key, None)


async def serve(service: Service) -> None:
    """The connector's life."""
    host, port = sys.argv[1].rsplit(":", 1)
    async with open_channel(service) as channel:
        platform = Chirp(channel, host, int(port))
        await channel.run(platform, platform.connect)


if __name__ == "__main__":
    run(sys.argv[2] if len(sys.argv) > 2 else "chirp", serve)
