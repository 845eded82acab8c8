"""From `reply.requested` to messages on a platform: each part once, in order, whatever is killed when.

A reply is planned once into parts, which are written to the ledger. A part is marked `sending` before the platform
hears of it; who finds it so after a crash asks the platform whether it came through, and where nobody can tell it turns
`uncertain` and the owner is told: it is never sent again blindly. When all parts have ended the reply's end goes to the
bus (`reply.delivered`) together with the acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from msgspec.structs import replace
from sqlalchemy import Engine

from microclaw.bus.api import Bus, Delivery, Draft
from microclaw.bus.errors import Refused
from microclaw.bus.service import Retry
from microclaw.channel.ledger import Entry, Ledger
from microclaw.channel.link import Link
from microclaw.channel.pace import HOLD_S_MAX, Pace
from microclaw.channel.platform import Fate, Gone, NotSent, Platform, Rejected, Unsure
from microclaw.channel.preview import Previews
from microclaw.core.channels import reconnect_delay_s
from microclaw.core.delivery import Age, Part, PartState, is_late, is_over, outcome
from microclaw.core.ids import derived_id, id_text, id_time
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.settings import Assistant
from microclaw.core.splitting import split_text
from microclaw.core.text import outbound
from microclaw.store.outbox import Outbox

log = logging.getLogger("microclaw.channels")

#: The first pause before a part is tried again, seconds; it doubles.
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
#: One try of one part, at most, seconds.
SEND_S_MAX = 120.0

Result = TypeVar("Result")


class Outbound:
    """Consumer of the channel's `reply.requested`."""

    def __init__(
        self, platform: Platform, ledger: Ledger, engine: Engine, outbox: Outbox, bus: Bus, link: Link, *,
        assistant: Assistant, age: Age, clock_ms: Callable[[], int], stopping: asyncio.Event,
        previews: Previews | None = None, chance: Callable[[], float] = random.random,
        clock_s: Callable[[], float] | None = None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._platform = platform
        self._ledger = ledger
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._link = link
        self._assistant = assistant
        self._age = age
        self._clock_ms = clock_ms
        self._stopping = stopping
        self._previews = previews
        self._chance = chance
        self._under_way: set[asyncio.Task[Any]] = set()
        limits = platform.limits
        self._sleep = sleep
        self._pace = Pace(
            everywhere=limits.everywhere, chat=limits.chat, bucket=limits.bucket, clock_s=clock_s, sleep=sleep,
        )

    async def on_reply(self, delivery: Delivery) -> list[Draft]:
        """Send it; returns the record of its delivery."""
        cause = delivery.envelope.message_id
        reply = delivery.envelope.read(ReplyRequested)
        with self._engine.begin() as db:
            done = self._outbox.seen(db, cause)
        if not done:
            entries = self._ledger.of_reply(cause) or await self._plan(cause, reply, delivery.envelope.ts_ms)
            if self._previews is not None and reply.run_id:
                edits = next((entry.part.edits for entry in entries), "")
                self._previews.taken(reply.chat, reply.run_id, edits, is_end=reply.origin == "answer")
            entries = [await self._settle(entry, reply, delivery.envelope.ts_ms) for entry in entries]
            record = _record(entries, reply.chat, cause)
            draft = Draft(reply.chat, record, message_id=derived_id(id_time(cause), cause, "delivered"))
            with self._engine.begin() as db:
                if not self._outbox.seen(db, cause):
                    self._outbox.put(db, cause, [draft], now_ms=self._clock_ms())
        return await self._outbox.with_ack(self._bus, cause)

    async def drain(self, timeout_s: float) -> None:
        """Let what is on its way come to its end, so that nothing is left in doubt; nothing new is begun."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s)

    async def _plan(self, cause: bytes, reply: ReplyRequested, written_ms: int) -> list[Entry]:
        text = outbound(reply.text, self._assistant.name, prefix=self._assistant.prefix)
        if text and is_late(written_ms, self._age, self._clock_ms()):
            hours, minutes = divmod((self._clock_ms() - written_ms) // 60_000, 60)
            text = f"(written {f'{hours} h ' if hours else ''}{minutes} min ago)\n\n{text}"
        limits = self._platform.limits
        texts = split_text(text, limits.text_max, limits.measure) if text else []
        files = list(reply.attachments)
        parts = [Part(text=each) for each in texts]
        if parts and files and limits.file_with_text:
            parts[-1] = Part(text=texts[-1], file=files.pop(0))
        if texts and self._previews is not None and reply.run_id:
            parts[0] = replace(parts[0], edits=await self._previews.message_of(reply.chat, reply.run_id))
        parts += [Part(file=file) for file in files]
        return self._ledger.plan(cause, reply.chat, reply.reply_to, parts)

    async def _settle(self, entry: Entry, reply: ReplyRequested, written_ms: int) -> Entry:
        """Bring one part to its end."""
        failures = 0
        while not entry.state.is_final:
            if self._stopping.is_set():
                raise Retry("stopping")
            if entry.state is PartState.PREPARED and is_over(
                written_ms, reply.expires_ms, self._age, self._clock_ms()
            ):
                return self._ledger.move(entry, PartState.EXPIRED, error="could not be sent in time")
            await self._connected()
            try:
                if entry.state is PartState.SENDING:
                    entry = await self._finish(self._look(entry))
                else:
                    await self._pace.wait(entry.chat)
                    # On disk first: from here on the platform may have it.
                    entry = await self._finish(self._try(self._ledger.move(entry, PartState.SENDING)))
                continue
            except NotSent as reason:
                failures += 1
                log.warning("not sent", extra={"part": entry.key, "reason": str(reason), "failures": failures})
                entry = self._as_it_stands(entry)
                await self._pause(reason, entry, failures)
        return entry

    async def _try(self, entry: Entry) -> Entry:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                platform_id = await self._platform.send(entry)
        except NotSent:
            self._ledger.move(entry, PartState.PREPARED)
            raise
        except Gone:
            return self._ledger.without_edit(entry)
        except (Rejected, Refused) as reason:
            # The broker's refusal is about the file that was to go with it: it is not kept any more.
            log.warning("refused", extra={"part": entry.key, "reason": str(reason)})
            return self._ledger.move(entry, PartState.FAILED, error=str(reason))
        except Exception as error:
            if not isinstance(error, Unsure | TimeoutError):
                log.exception("sending failed", extra={"part": entry.key})
            log.warning("in doubt", extra={"part": entry.key, "reason": f"{type(error).__name__}: {error}"})
            return entry
        log.info("sent", extra={"part": entry.key, "platform_id": platform_id})
        return self._ledger.move(entry, PartState.SENT, platform_id=platform_id)

    async def _look(self, entry: Entry) -> Entry:
        """Find out about a part that may have been sent."""
        if entry.part.edits:
            # To change a message again does no harm.
            self._ledger.move(entry, PartState.PREPARED)
            raise NotSent("it may have been changed or not: it is changed again")
        found = await self._platform.find(entry)
        if isinstance(found, str):
            return self._ledger.move(entry, PartState.SENT, platform_id=found)
        if found is Fate.SEND_AGAIN:
            return self._ledger.move(entry, PartState.PREPARED)
        log.warning("uncertain", extra={"part": entry.key})
        return self._ledger.move(
            entry, PartState.UNCERTAIN, error="it may have arrived or not; it is not sent again by itself"
        )

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Not torn by a stop of the service: what is on its way may come to its end (`drain`)."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Taken note of, also when nobody waits any more.
            task.exception()

    def _as_it_stands(self, entry: Entry) -> Entry:
        return next(each for each in self._ledger.of_reply(entry.reply_id) if each.number == entry.number)

    async def _connected(self) -> None:
        """Wait until the platform is there; the journal keeps the reply meanwhile."""
        up = asyncio.ensure_future(self._link.up.wait())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({up, stop}, timeout=RETRY_MAX_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            stop.cancel()
        if not self._link.up.is_set():
            raise Retry("not connected", delay_ms=int(RETRY_FIRST_S * 1000))

    async def _pause(self, reason: NotSent, entry: Entry, failures: int) -> None:
        if reason.retry_after_s is None:
            pause_s = min(reconnect_delay_s(failures, self._chance()) * RETRY_FIRST_S / 5.0, RETRY_MAX_S)
        else:
            self._pace.hold(reason.retry_after_s, "" if reason.everywhere else entry.chat)
            pause_s = min(reason.retry_after_s, HOLD_S_MAX)
        over = asyncio.ensure_future(self._sleep(pause_s))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({over, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            stop.cancel()


def _record(entries: list[Entry], chat: str, cause: bytes) -> ReplyDelivered:
    status = outcome(entry.state for entry in entries)
    error = next((entry.error for entry in entries if entry.error), "")
    if not entries:
        error = "there was nothing to send"
    elif error and len(entries) > 1:
        bad = sum(entry.state is not PartState.SENT for entry in entries)
        error = f"{bad} of {len(entries)} parts: {error}"
    last = next((entry.platform_id for entry in reversed(entries) if entry.platform_id), "")
    return ReplyDelivered(chat=chat, reply_id=id_text(cause), status=status, platform_id=last, error=error)
