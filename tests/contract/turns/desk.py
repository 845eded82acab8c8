"""What the queue and a connector are to the sandbox service: grants out, ends and replies in, each seen once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from tests.contract.processes import DEADLINE_S, Installation, installation

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.envelope import Envelope
from microclaw.core.ids import derived_id, id_text, new_id
from microclaw.core.kinds import MessageReceived, PromptMessage, ReplyRequested, RunFinished, RunGranted, ScheduledTask

CONFIG = """
[sandbox]
backend = "bubblewrap"
memory_mb = 256
{sandbox}
[model]
backend = "{model}"
"""


class Desk:
    """The test's side of the bus."""

    def __init__(self, made: Installation, queue: Bus, console: Bus) -> None:
        self.made = made
        self._queue = queue
        self._console = console
        self.ends: dict[str, list[RunFinished]] = {}
        #: Every reply envelope that the journal has, in order.
        self.replies: list[ReplyRequested] = []
        self.reply_ids: list[bytes] = []
        self._changed = asyncio.Condition()
        self._tasks = [
            asyncio.create_task(self._follow(queue, "queue", "run.finished")),
            asyncio.create_task(self._follow(console, "console", "reply.requested")),
        ]

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, *services: str, model: str = "scripted", sandbox: str = "", more: str = "", start: bool = True
    ) -> AsyncIterator[Desk]:
        """`more`: lines of the configuration's `[model]` after its backend."""
        async with installation() as made:
            with made.home.config.open("a") as config:
                config.write(CONFIG.format(model=model, sandbox=sandbox) + more)
            for name in ("broker", "egress", *services, *(("sandbox",) if start else ())):
                made.start(name)
            desk = cls(made, await made.connect("queue"), await made.connect("console"))
            try:
                yield desk
            finally:
                for task in desk._tasks:
                    task.cancel()
                await asyncio.gather(*desk._tasks, return_exceptions=True)

    async def grant(
        self, text: str, *, group: str = "fam", is_main: bool = False, task: ScheduledTask | None = None,
        expires_ms: int = 0, attempt: int = 1, chat: str = "", is_trusted: bool = False,
    ) -> str:
        """Let a group run on one message; returns the run's id."""
        now = time.time_ns() // 1_000_000
        run_id = id_text(new_id(now))
        messages = () if task else (PromptMessage(
            id=run_id, sender_name="Ann", sent_ms=now, text=text,
            sender="console:Owner" if is_trusted else "console:Ann", is_trusted=is_trusted,
        ),)
        grant = RunGranted(
            run_id=run_id, attempt=attempt, group=group, chat=chat or f"console:{group}", is_main=is_main,
            messages=messages,
            task=task, expires_ms=expires_ms,
        )
        await self._queue.publish(
            Draft(f"group:{group}", grant, message_id=derived_id(now, run_id, "granted"), ts_ms=now)
        )
        return run_id

    async def hear(self, text: str, *, chat: str = "console:main", **more: object) -> None:
        """Somebody writes in a chat."""
        now = time.time_ns() // 1_000_000
        said = {
            "chat": chat, "platform_id": new_id(now).hex(), "sender": "owner", "sender_name": "Owner", "text": text,
            "sent_ms": now,
        }
        await self._console.publish(Draft(chat, msgspec.convert(said | more, MessageReceived)))

    async def noticed(self, part: str) -> str:
        """The first notice that holds this, once there is one."""
        def found() -> list[str]:
            return [reply.text for reply in self.replies if reply.origin == "notice" and part in reply.text]

        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: bool(found()))
        return found()[0]

    async def end(self, run_id: str) -> RunFinished:
        """The run's end; there is never a second one."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: run_id in self.ends)
        (end,) = self.ends[run_id]
        return end

    async def run(self, text: str, *, group: str = "fam", is_main: bool = False) -> RunFinished:
        """One run from grant to end."""
        return await self.end(await self.grant(text, group=group, is_main=is_main))

    async def said(self, run_id: str, count: int) -> list[str]:
        """The texts of a run, once there are `count`."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.of(run_id)) >= count)
        return self.of(run_id)

    async def answer(self, run_id: str) -> str:
        """What the run said at its end."""
        def found() -> list[str]:
            return [reply.text for reply in self.replies if reply.run_id == run_id and reply.origin == "answer"]

        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: bool(found()))
        return found()[0]

    def of(self, run_id: str) -> list[str]:
        return [reply.text for reply in self.replies if reply.run_id == run_id]

    async def _follow(self, bus: Bus, group: str, kind: str) -> None:
        async for delivery in bus.subscribe(Subscription(group, (kind,))):
            await bus.ack(delivery)
            if delivery.count == 1:
                await self._take(delivery.envelope)

    async def _take(self, envelope: Envelope) -> None:
        async with self._changed:
            if envelope.kind == "run.finished":
                end = envelope.read(RunFinished)
                self.ends.setdefault(end.run_id, []).append(end)
            else:
                self.replies.append(envelope.read(ReplyRequested))
                self.reply_ids.append(envelope.message_id)
            self._changed.notify_all()


def children_of(pid: int) -> list[int]:
    """The processes that this one started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return found
