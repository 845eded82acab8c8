"""The workers' ways out, asked of egress."""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar, cast

from microclaw.bus.api import Bus
from microclaw.bus.errors import BusTimeout, NoResponder
from microclaw.core.requests import CloseDoors, Done, Door, Failed, OpenDoor
from microclaw.sandbox.backend import SandboxError

#: One question, and the pause before it is asked again.
ASK_S = 5.0
ASK_AGAIN_S = 0.1

Answer = TypeVar("Answer", Door, Done)

log = logging.getLogger("microclaw.sandbox")


class Doors:
    """Opens and closes them; egress may be away for a while."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._closing: set[asyncio.Task[None]] = set()
        #: Earlier lives' doors are closed: before that, a new one would be closed with them.
        self._begun = asyncio.Event()

    async def begin(self) -> None:
        """Close what earlier lives of this service left. Waits for egress."""
        await self._close(CloseDoors(workers=(), keep_only=True))
        self._begun.set()

    async def open(self, worker_id: str, group: str) -> Door:
        """The worker's door. Waits for egress as long as it takes; give up by cancelling.

        :raises SandboxError: egress refuses it.
        """
        await self._begun.wait()
        answer = await self._ask(OpenDoor(worker_id=worker_id, group=group), Door)
        if isinstance(answer, Failed):
            raise SandboxError(f"egress opens no door for the worker: {answer.reason}")
        return answer

    def close(self, worker_id: str) -> None:
        """This worker has ended. Does not wait; what is not closed now is at the next start."""
        task = asyncio.create_task(self._close(CloseDoors(workers=(worker_id,))))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """Wait for no answer any more."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _close(self, question: CloseDoors) -> None:
        answer = await self._ask(question, Done)
        if isinstance(answer, Failed):
            log.warning("egress closes no door: %s", answer.reason)

    async def _ask(self, question: OpenDoor | CloseDoors, answer: type[Answer]) -> Answer | Failed:
        while True:
            try:
                return await self._bus.request(
                    "egress", question, cast("type[Answer | Failed]", answer | Failed), timeout_s=ASK_S
                )
            except (NoResponder, BusTimeout):
                # It starts in any order, and may be started anew at any time.
                await asyncio.sleep(ASK_AGAIN_S)
