"""The one run loop of every service: signals, logging, connection, readiness, heartbeat, drain.

    # services/microclaw/router/__main__.py
    if __name__ == "__main__":
        run("router", serve)

    async def serve(service: Service) -> None:
        store = ...
        service.consume(Subscription("router", ("message.received",)), on_message)
        service.answer(GroupsAsked, on_groups)
        await service.ready()
        await service.stopping.wait()

A service starts in any order: it waits for the broker. It stops on SIGTERM within `STOP_S`, what it was handling handed
back; it also stops when its supervisor is gone, so that no orphan works beside its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from microclaw.bus import only_one
from microclaw.bus.api import Bus, Delivery, Draft, Handler, Subscription
from microclaw.bus.client import connect
from microclaw.bus.errors import EnvelopeError, Refused
from microclaw.bus.logs import configure
from microclaw.core.disk import disk_trouble
from microclaw.core.errors import MicroclawError, UnhealthyError, UsageError
from microclaw.core.home import Home, home_from
from microclaw.core.requests import Failed, Request, ServiceStatus, StatusAsked
from microclaw.core.settings import Settings, load

#: From SIGTERM to the end, at most; supervisord kills after `stopwaitsecs`, which is longer.
STOP_S = 4.0
#: Names supervisord's process id to its services.
SUPERVISOR = "MICROCLAW_SUPERVISOR"
#: How often an idle loop looks whether its supervisor still lives.
PARENT_CHECK_S = 1.0
#: Troubles kept for `status`.
TROUBLES_MAX = 20


class Retry(Exception):
    """A handler can't do it now: give the delivery back, again after `delay_ms` (None = the group's back-off)."""

    def __init__(self, reason: str, delay_ms: int | None = None) -> None:
        self.delay_ms = delay_ms
        super().__init__(reason)


class Poison(Exception):
    """A handler can never do it: to the dead letters."""


Answerer = Callable[[Any, str], Awaitable[msgspec.Struct]]


class Service:
    """What a service is given to work with."""

    def __init__(self, name: str, settings: Settings, home: Home, bus: Bus) -> None:
        self.name = name
        self.settings = settings
        self.home = home
        self.bus = bus
        self.log = logging.getLogger(f"microclaw.{name}")
        #: Set when the service is to stop.
        self.stopping = asyncio.Event()
        #: Shown by `status --deep`.
        self.facts: dict[str, str | int | float | bool] = {}
        self._troubles: deque[str] = deque(maxlen=TROUBLES_MAX)
        self._answers: dict[str, tuple[type[Request], Answerer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_ms = now_ms()
        self._ready = False
        self._failure: BaseException | None = None
        self.answer(StatusAsked, self._on_status)

    def consume(
        self, subscription: Subscription, handler: Handler, *, concurrency: int = 1,
        settled: Callable[[Sequence[Draft]], None] | None = None,
    ) -> None:
        """Handle a group's deliveries, `concurrency` at a time. What the handler returns is published with the ack;
        `settled` is told of it once both are on disk (`Outbox.settled`).

        `Retry` gives the delivery back, `Poison` sends it to the dead letters, any other exception is logged with
        its trace and gives it back; while a handler works the broker is told so every third of `ack_wait_ms`.
        """
        self.spawn(self._consume(subscription, handler, concurrency, settled), f"consume {subscription.group}")

    def answer(self, question: type[Request], handler: Answerer) -> None:
        """Answer this kind of request: `await handler(question, asker's name)`."""
        self._answers[str(question.__struct_config__.tag)] = (question, handler)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Run this beside the rest. If it fails, the service ends with its error (and supervisord starts it anew)."""
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def trouble(self, text: str) -> None:
        """Tell the owner in `status`, and the log."""
        self.log.warning(text)
        if not self._troubles or self._troubles[0] != text:
            self._troubles.appendleft(text)

    async def ready(self) -> None:
        """Say that the service works from now on: answers requests, and `up` sees it."""
        await self.bus.serve(self._serve)
        self._ready = True
        self.log.info("ready", extra={"took_ms": now_ms() - self._started_ms})

    # --- inside -----------------------------------------------------------------------------------------------

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
            self.stopping.set()

    async def _consume(
        self, subscription: Subscription, handler: Handler, concurrency: int,
        settled: Callable[[Sequence[Draft]], None] | None,
    ) -> None:
        places = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()
        try:
            async for delivery in self.bus.subscribe(subscription):
                if concurrency == 1:
                    await self._handle(subscription, handler, delivery, settled)
                    continue
                await places.acquire()
                task = asyncio.create_task(self._handle(subscription, handler, delivery, settled))
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _done: places.release())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _handle(
        self, subscription: Subscription, handler: Handler, delivery: Delivery,
        settled: Callable[[Sequence[Draft]], None] | None,
    ) -> None:
        envelope = delivery.envelope
        beat = asyncio.create_task(self._beat(subscription, delivery))
        drafts: Sequence[Draft] | None = None
        try:
            drafts = await handler(delivery)
        except Retry as reason:
            self.log.info("later", extra=ids(delivery) | {"reason": str(reason), "count": delivery.count})
            await self.bus.nack(delivery, delay_ms=reason.delay_ms, error=str(reason))
        except (Poison, EnvelopeError) as reason:
            self.trouble(f"{envelope.kind} {delivery.envelope.message_id.hex()} can't be handled: {reason}")
            await self.bus.term(delivery, str(reason))
        except Exception as error:
            # Whatever went wrong, the message stays in the journal and comes again, until it is a dead letter.
            self.log.exception("handler failed", extra=ids(delivery) | {"count": delivery.count})
            await self.bus.nack(delivery, error=f"{type(error).__name__}: {error}")
        finally:
            beat.cancel()
        if drafts is not None:
            try:
                await self.bus.ack(delivery, *drafts)
                if settled is not None:
                    settled(drafts)
            except (Refused, EnvelopeError) as error:
                self.trouble(f"what {envelope.kind} caused was refused: {error}")
                if isinstance(error, Refused) and error.code == "id_conflict":
                    # It was done before, and said otherwise then: the first word holds.
                    await self.bus.ack(delivery)
                else:
                    await self.bus.term(delivery, str(error))

    async def _beat(self, subscription: Subscription, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(subscription.ack_wait_ms / 3000)
            await self.bus.in_progress(delivery)

    async def _serve(self, asker: str, raw: bytes) -> msgspec.Struct:
        kind = msgspec.msgpack.decode(raw, type=_Kind).kind
        if kind not in self._answers:
            return Failed(reason=f"{self.name} does not answer {kind}")
        question, handler = self._answers[kind]
        try:
            return await handler(msgspec.msgpack.decode(raw, type=question), asker)
        except msgspec.ValidationError as error:
            return Failed(reason=f"{kind}: {error}")
        except MicroclawError as error:
            return Failed(reason=str(error))
        except Exception as error:
            # The asker is told; the service goes on.
            self.log.exception("request failed", extra={"kind": kind, "asker": asker})
            if trouble := disk_trouble(error):
                return Failed(reason=f"{self.name} can't write it down: {trouble}", code="internal")
            return Failed(reason=f"{kind} failed inside {self.name}: {type(error).__name__}", code="internal")

    async def _on_status(self, _question: StatusAsked, _asker: str) -> ServiceStatus:
        return ServiceStatus(
            service=self.name, pid=os.getpid(), started_ms=self._started_ms, ready=self._ready,
            facts=dict(self.facts), troubles=tuple(self._troubles),
        )


class _Kind(msgspec.Struct):
    kind: str


def now_ms() -> int:
    """Unix milliseconds, by this machine's clock."""
    return time.time_ns() // 1_000_000


def ids(delivery: Delivery) -> dict[str, object]:
    """A message's ids, for a log line."""
    envelope = delivery.envelope
    return {
        "kind": envelope.kind, "session": envelope.session_id, "seq": envelope.seq,
        "message_id": envelope.message_id.hex(),
    }


def run(name: str, serve: Callable[[Service], Awaitable[None]]) -> None:
    """The whole life of a service process; ends it with an exit status."""
    configure(name)
    log = logging.getLogger(f"microclaw.{name}")
    try:
        home = home_from(os.environ)
        settings = load(home.config, os.environ)
        die_with_parent()
        only_one.hold(home, name)
        sys.exit(asyncio.run(_life(name, settings, home, serve)))
    except UnhealthyError as error:
        log.error(str(error))
        sys.exit(error.exit_code)
    except UsageError as error:
        # A bad configuration does not get better by starting again: supervisord gives up after its retries.
        log.error(str(error))
        sys.exit(error.exit_code)


async def _life(name: str, settings: Settings, home: Home, serve: Callable[[Service], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connecting = asyncio.create_task(connect(home.bus, name))
    parent = asyncio.create_task(_until_orphaned(stop))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not connecting.done():
        connecting.cancel()
        parent.cancel()
        return 0
    bus = connecting.result()
    service = Service(name, settings, home, bus)
    work = asyncio.create_task(_guard(service, serve))
    stopped.add_done_callback(lambda _task: service.stopping.set())
    await service.stopping.wait()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(work, STOP_S / 2)
    for task in list(service._tasks):
        task.cancel()
    await asyncio.gather(*service._tasks, return_exceptions=True)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(bus.close(), STOP_S / 2)
    parent.cancel()
    if service._failure is not None:
        service.log.error("failed", exc_info=service._failure)
        return 1
    service.log.info("stopped")
    return 0


async def _guard(service: Service, serve: Callable[[Service], Awaitable[None]]) -> None:
    try:
        await serve(service)
    except Exception as error:  # noqa: BLE001 - kept, and becomes the process's exit status
        service._failure = service._failure or error
    finally:
        service.stopping.set()


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux; elsewhere `_until_orphaned` alone sees it).

    :raises UnhealthyError: the supervisor died before we could ask: nobody would tell us any more.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor and os.getppid() != int(supervisor):
        raise UnhealthyError("the supervisor died while this service started: its successor starts another one")


async def _until_orphaned(stop: asyncio.Event) -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for it that asyncio could await
        await asyncio.sleep(PARENT_CHECK_S)
    logging.getLogger("microclaw").error("the supervisor is gone: stopping")
    stop.set()
