"""The owner's `/restart`: kept on disk until it is over, whoever is killed meanwhile, and then said once."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert, select

from microclaw.bus.api import Bus, Draft
from microclaw.bus.supervisor import Supervisor
from microclaw.core.errors import MicroclawError
from microclaw.core.ids import derived_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.restarting import Step, end_text, next_step
from microclaw.router.tables import restarts
from microclaw.store.outbox import Outbox

#: How often it is looked how far it is, and when it begins; at least a second (the owner reads that it begins).
LOOK_S = 0.5
BEGIN_AFTER_S = 1.0

log = logging.getLogger("microclaw.router")


class Restarting:
    """Looks after the restart that is under way, if there is one.

    :param clock_ms: Unix milliseconds.
    :param check: raises MicroclawError if the services would not start again, as by a mistake in the configuration.
    """

    def __init__(
        self, engine: Engine, outbox: Outbox, bus: Bus, supervisor: Supervisor, clock_ms: Callable[[], int], *,
        check: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._supervisor = supervisor
        self._clock_ms = clock_ms
        self._check = check
        self._wanted = asyncio.Event()
        #: When this life told which service to end.
        self._told_s: dict[str, float] = {}

    async def problem(self) -> str:
        """Why there can be no restart now, "" = there can."""
        with self._engine.begin() as db:
            if db.execute(select(restarts.c.cause)).first() is not None:
                return "I am restarting already."
        try:
            await asyncio.to_thread(self._supervisor.pid)
            await asyncio.to_thread(self._check)
        except MicroclawError as error:
            return f"I don't restart: {error}"
        return ""

    def want(self, db: Connection, cause: bytes, chat: str) -> None:
        """A restart is to be done. Within the transaction of the owner's message; a second one is the first."""
        if db.execute(select(restarts.c.cause)).first() is None:
            db.execute(insert(restarts), {"cause": cause, "chat": chat, "asked_ms": self._clock_ms()})
            self._wanted.set()

    async def keep(self) -> None:
        """Do what is to be done, for as long as the service lives."""
        while True:
            with self._engine.begin() as db:
                under_way = db.execute(select(restarts)).first()
            if under_way is None:
                self._told_s.clear()
                await self._wanted.wait()
                self._wanted.clear()
                continue
            # supervisord counts in seconds: what starts in the second of the question would pass for an old one.
            passed_s = (self._clock_ms() - under_way.asked_ms) / 1000
            await asyncio.sleep(min(max(0.0, BEGIN_AFTER_S - passed_s), BEGIN_AFTER_S))
            try:
                step = await asyncio.to_thread(self._do, under_way.asked_ms)
            except MicroclawError as error:
                log.warning("the restart has to wait", extra={"why": str(error)})
            else:
                if step.is_over:
                    await self._end(under_way.cause, under_way.chat, under_way.asked_ms, step.missing)
            await asyncio.sleep(LOOK_S)

    # --- inside -----------------------------------------------------------------------------------------------

    def _do(self, asked_ms: int) -> Step:
        step = next_step(
            self._supervisor.processes(), self._told_s, asked_ms=asked_ms, now_ms=self._clock_ms(),
            steady_s=time.monotonic(),
        )
        for name in step.end:
            log.info("restarting", extra={"restarted": name})
            self._told_s[name] = time.monotonic()
            self._supervisor.signal(name, signal.SIGTERM)
        for name in step.kill:
            log.warning("it does not end, and is killed", extra={"restarted": name})
            self._told_s[name] = time.monotonic()
            self._supervisor.signal(name, signal.SIGKILL)
        for name in step.start:
            self._supervisor.start(name, wait=False)
        return step

    async def _end(self, cause: bytes, chat: str, asked_ms: int, missing: tuple[str, ...]) -> None:
        now = self._clock_ms()
        draft = Draft(
            chat, ReplyRequested(chat=chat, text=end_text(missing, now - asked_ms), origin="notice"),
            message_id=derived_id(asked_ms, cause, "restarted"), ts_ms=now,
        )
        done = derived_id(asked_ms, cause, "restart is over")
        with self._engine.begin() as db:
            db.execute(delete(restarts).where(restarts.c.cause == cause))
            self._outbox.add(db, done, [draft], now_ms=now)
        await self._outbox.flush(self._bus, done)
