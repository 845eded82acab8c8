"""The queue service: requests and ends come in, grants and notices go out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from microclaw.bus.api import Delivery, Draft, Subscription
from microclaw.bus.errors import BusTimeout, NoResponder, Refused
from microclaw.bus.service import Service, now_ms
from microclaw.core.dispatch import Drain
from microclaw.core.requests import Failed, Groups, GroupsAsked, Runs, RunsAsked
from microclaw.core.turns import hard_timeout_s, longest_turn_s
from microclaw.queue.desk import Desk, SteadyClock
from microclaw.store.engine import open_store
from microclaw.store.heads import HEADS

#: Longest sleep of the timer: what was refused for the moment (`no_space`) is sent again by then.
TIMER_S_MAX = 5.0
#: How often old rows are deleted.
TIDY_S = 6 * 3600
#: How often the router is asked for the owner's chat, and as long as it does not know.
OWNER_S = 300.0
OWNER_AGAIN_S = 2.0
#: Rows in one answer, at most.
ROWS_MAX = 500


class Queue:
    """The desk on the bus."""

    def __init__(self, service: Service, desk: Desk) -> None:
        self._service = service
        self._desk = desk
        self._changed = asyncio.Event()
        self._unsent = False

    async def on_delivery(self, delivery: Delivery) -> Sequence[Draft]:
        """One stream for all kinds: of a group, what was first is handled first."""
        envelope = delivery.envelope
        match envelope.kind:
            case "run.requested":
                self._desk.requested(envelope)
            case "task.withdrawn":
                self._desk.withdrawn(envelope)
            case _:
                self._desk.finished(envelope)
        self._show()
        return await self._desk.outbox.with_ack(self._service.bus, envelope.message_id)

    async def on_runs(self, question: RunsAsked, _asker: str) -> Runs:
        limit = max(1, min(question.limit, ROWS_MAX))
        desk = self._desk
        return Runs(running=desk.running(limit), waiting=desk.waiting(limit), failed=desk.failed(limit))

    async def start(self) -> None:
        """Publish what an earlier life left, and let those in line run."""
        self._desk.tidy()
        self._desk.resume()
        await self._flush()
        self._show()

    async def keep_time(self) -> None:
        """Retries and lost runs."""
        tidied = time.monotonic()
        while True:
            due_s = self._desk.next_due_s()
            pause = TIMER_S_MAX if due_s is None else min(due_s, TIMER_S_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)
            self._changed.clear()
            # One at a time: while its grant is sent, a delivery may bring about that the next is due no more.
            while events := self._desk.due():
                await self._send(self._desk.happen(events[0]))
            if self._unsent:
                await self._flush()
            if time.monotonic() - tidied > TIDY_S:
                tidied = time.monotonic()
                self._desk.tidy()

    async def find_owner(self) -> None:
        """Ask the router where the owner is, and now and then whether that still holds."""
        while True:
            try:
                known = await self._service.bus.request("router", GroupsAsked(), Groups | Failed)  # type: ignore[arg-type]
            except (NoResponder, BusTimeout):
                known = None
            if isinstance(known, Groups):
                self._desk.owner_chat = known.owner_chat
            await asyncio.sleep(OWNER_S if self._desk.owner_chat else OWNER_AGAIN_S)

    def drain(self) -> None:
        """Nothing new starts; what runs ends by itself, and is heard of after the next start."""
        self._desk.happen(Drain())

    async def _send(self, cause: bytes) -> None:
        self._show()
        outbox = self._desk.outbox
        try:
            drafts = await outbox.with_ack(self._service.bus, cause)
            if drafts:
                await self._service.bus.publish(*drafts)
                outbox.settled(drafts)
        except Refused as refused:
            self._service.trouble(f"the bus refused a grant or notice: {refused}")
            self._unsent = True

    async def _flush(self) -> None:
        try:
            refusals = await self._desk.outbox.flush(self._service.bus)
        except Refused as refused:
            self._service.trouble(f"the bus takes nothing at the moment: {refused}")
            self._unsent = True
            return
        self._unsent = False
        for refusal in refusals:
            self._service.trouble(f"the bus refused a grant or notice for ever: {refusal}")

    def _show(self) -> None:
        self._service.facts.update(self._desk.counts())
        self._changed.set()


async def serve(service: Service) -> None:
    """Run until told to stop."""
    engine = open_store(service.home.database("queue"), HEADS["queue"])
    sandbox = service.settings.sandbox
    desk = Desk(
        engine, service.settings.queue.max_concurrent,
        longest_turn_s(hard_timeout_s(sandbox.run_timeout_s, sandbox.idle_timeout_s)),
        wall=now_ms, steady=SteadyClock(), trouble=service.trouble, log=service.log,
    )
    queue = Queue(service, desk)
    await queue.start()
    service.consume(
        Subscription("queue", ("run.requested", "task.withdrawn", "run.finished")), queue.on_delivery,
        settled=desk.outbox.settled,
    )
    service.answer(RunsAsked, queue.on_runs)
    service.spawn(queue.find_owner(), "find owner")
    service.spawn(queue.keep_time(), "retries and leases")
    await service.ready()
    await service.stopping.wait()
    queue.drain()
    engine.dispose()
