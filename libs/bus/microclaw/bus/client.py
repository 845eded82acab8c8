"""The client: what was not answered when the connection broke is sent again after the next HELLO; the broker knows
repeats by their ids.

Publishes of one message, and acks that cause nothing, share an operation with the others of the same turn of the event
loop, on the way there and back: so many awaited side by side cost little more than one call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from microclaw.bus.api import Bus, Deliveries, Delivery, Draft, Receipt, Subscription
from microclaw.bus.blobs import PART_BYTES_MAX, handle_of
from microclaw.bus.curve import KeyFileError, PeerKeys
from microclaw.bus.envelope import Envelope, encode_new, placed, placed_all
from microclaw.bus.errors import BusTimeout, EpochMismatch, Gap, NoResponder, NotAnswered, Refused
from microclaw.bus.intake import CALL_MESSAGES_MAX
from microclaw.bus.link import Link
from microclaw.bus.stream import Acks, Stream, Token
from microclaw.bus.wire import FRAME_BYTES_GOOD, FRAME_BYTES_MAX, Op
from microclaw.core.ids import new_id
from microclaw.core.requests import Failed

#: A refusal that may pass (`no_space`, `busy`) is tried again after this, unless the broker says when.
RETRY_S = 0.5
#: Messages asked for in one replay question.
REPLAY_MESSAGES = 1_000
#: The largest that the journal can hold.
ANY_NUMBER = (1 << 63) - 1
#: How often a blob is begun anew because the broker was.
UPLOAD_TRIES_MAX = 20
#: How long one replay question waits for something new.
REPLAY_WAIT_MS = 20_000
#: Bytes of the envelopes in one call; what else is in the frame fits beside them.
CALL_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)
#: So many publishes of one message go at once, and the broker is at work on them while the next are made.
EACH_MESSAGES_GOOD = 32
#: Publishes of one message have ids of their own from here on, so that those of one turn follow each other.
FIRST_LONE_RID = 1 << 40

Answer = TypeVar("Answer")

#: What comes for each message is compared and encoded as plain numbers: an IntEnum costs ten times as much.
_PUBLISH, _PUBLISH_EACH, _ACK, _DELIVER = int(Op.PUBLISH), int(Op.PUBLISH_EACH), int(Op.ACK), int(Op.DELIVER)
_ANSWERS = frozenset({_PUBLISH, int(Op.REQUEST), int(Op.REPLAY), int(Op.SEEK), int(Op.BLOB_PUT), int(Op.BLOB_GET)})

log = logging.getLogger("microclaw.bus")


async def connect(
    address: str, name: str, *, timeout_s: float | None = None, key_file: Path | None = None
) -> Bus:
    """A connection to the broker at `address` under this name. Waits for the broker, or `timeout_s` at most.

    `key_file` is needed for `tcp://`: what `microclaw bus key add` wrote for this name.

    :raises BusTimeout: it is not there, or does not know the key. :raises Refused: it will not have us.
    :raises KeyFileError: the key file can't be used, or is missing.
    """
    keys = PeerKeys.load(key_file) if key_file is not None else None
    if address.startswith("tcp://") and keys is None:
        raise KeyFileError(f"{address}: a bus over tcp needs a key file")
    client = Client(address, name, keys)
    try:
        await asyncio.wait_for(client.connected(), timeout_s)
    except TimeoutError:
        await client.close()
        raise BusTimeout("the broker does not answer: is MicroClaw running? `microclaw status`") from None
    except BaseException:
        await client.close()
        raise
    return client


class Client(Bus):
    """The `Bus` over ZeroMQ."""

    def __init__(self, address: str, name: str, keys: PeerKeys | None = None) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._link = Link(address, name, keys, heard=self._on, again=self._again, sealed=self._sealed)
        self._say = self._link.say
        #: rid → (operation to send again after a reconnect, future).
        self._calls: dict[int, tuple[list[Any], asyncio.Future[Any]]] = {}
        self._next = 1
        self._next_lone = FIRST_LONE_RID
        #: The publishes of one message that go with the next flush, and their bytes.
        self._each: list[Any] | None = None
        self._each_bytes = 0
        #: Group → the acks that go with the next flush.
        self._acking: dict[str, Acks] = {}
        self._streams: dict[int, Stream] = {}
        self._server: Callable[[str, bytes], Awaitable[msgspec.Struct]] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def connected(self) -> None:
        """Until the broker has greeted us."""
        await self._link.connected()

    @property
    def epoch(self) -> str:
        """Of the broker's journal."""
        return self._link.epoch

    def _sealed(self) -> None:
        self._each = None
        self._acking.clear()

    def _again(self, another: bool) -> list[list[Any]]:
        if another:
            for stream in self._streams.values():
                stream.forget()
            for operation, _ in self._calls.values():
                if operation[0] == _ACK:
                    operation[3] = []
        again: list[list[Any]] = [stream.operation() for stream in self._streams.values()]
        if self._server is not None:
            again.append([Op.SERVE])
        return again + [operation for operation, _ in self._calls.values()]

    # --- what the broker says ---------------------------------------------------------------------------------------

    def _on(self, operation: list[Any]) -> None:
        op = operation[0]
        if op == _PUBLISH_EACH:
            for rid, seq in enumerate(operation[2], operation[1]):
                if seq:
                    self._settle(rid, [[seq]])
        elif op in _ANSWERS:
            self._settle(operation[1], operation[2:])
        elif op == _DELIVER:
            self._on_deliver(*operation[1:])
        elif op == Op.ASKED:
            task = asyncio.create_task(self._answer(*operation[1:]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif op == Op.REFUSED:
            self._on_refused(*operation[1:])

    def _on_refused(self, rid: int, code: str, why: str, retry_after_ms: int) -> None:
        if rid in self._streams:
            self._streams[rid].put(Refused(code, why))
            return
        call = self._calls.get(rid)
        if call is None:
            return
        if code in ("no_space", "busy") and call[0][0] in (_PUBLISH, _ACK, Op.BLOB_PUT):
            # It may pass: the caller goes on waiting, as for a broker that is away.
            log.warning("the broker can't take it now", extra={"code": code, "why": why})
            self._loop.call_later(retry_after_ms / 1000 or RETRY_S, self._try_again, rid)
            return
        _, future = self._calls.pop(rid)
        if not future.done():
            future.set_exception(_refusal(code, why, retry_after_ms, call[0]))

    def _try_again(self, rid: int) -> None:
        if call := self._calls.get(rid):
            self._say(call[0])

    def _settle(self, rid: int, answer: list[Any]) -> None:
        call = self._calls.pop(rid, None)
        if call is not None and not call[1].done():
            call[1].set_result(answer)

    def _on_deliver(
        self, sid: int, offsets: list[int], seqs: list[int], counts: list[int], bodies: list[bytes]
    ) -> None:
        if stream := self._streams.get(sid):
            held = stream.open
            for offset, seq, count, body in zip(offsets, seqs, counts, bodies, strict=True):
                if offset not in held:
                    held.add(offset)
                    stream.queue.append(Delivery(placed(body, seq), count, Token(stream, offset, held)))
            stream.wake()

    def _asked(self, operation: list[Any], rid: int) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._calls[rid] = (operation, future)
        self._say(operation)
        return future

    async def _call(self, operation: list[Any], rid: int, timeout_s: float | None) -> list[Any]:
        return await self._answered(rid, self._asked(operation, rid), timeout_s)

    async def _answered(self, rid: int, future: asyncio.Future[list[Any]], timeout_s: float | None) -> list[Any]:
        try:
            if timeout_s is None:
                return await future
            # Not `wait_for`: in Python 3.11 it forgets that it was cancelled when the answer comes just then.
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise BusTimeout("the bus did not answer in time; whether it took effect is unknown") from None
        finally:
            self._calls.pop(rid, None)

    def _rid(self) -> int:
        self._next += 1
        return self._next

    # --- the interface ----------------------------------------------------------------------------------------------

    def _item(self, draft: Draft) -> tuple[bytes, Any]:
        """(id, item as on the wire)."""
        now_ms = time.time_ns() // 1_000_000
        message_id = draft.message_id or new_id(now_ms)
        body = encode_new(
            now_ms if draft.ts_ms is None else draft.ts_ms, self.name, draft.device_id, draft.session_id, message_id,
            draft.payload,
        )
        if draft.not_before_ms or draft.expires_ms or draft.expected_last_seq is not None or draft.blobs:
            return message_id, [body, draft.not_before_ms, draft.expires_ms, draft.expected_last_seq,
                                list(draft.blobs)]
        return message_id, body

    def _items(self, drafts: Sequence[Draft]) -> tuple[list[bytes], list[Any]]:
        """(ids, items) of a call. Raises Refused (`too_big`)."""
        if len(drafts) > CALL_MESSAGES_MAX:
            raise Refused("too_big", f"{len(drafts)} messages in one call, the limit is {CALL_MESSAGES_MAX}")
        ids, items = [], []
        size = 0
        for draft in drafts:
            message_id, item = self._item(draft)
            ids.append(message_id)
            items.append(item)
            size += len(item if isinstance(item, bytes) else item[0])
        if size > CALL_BYTES_MAX:
            raise Refused("too_big", f"{size} bytes in one call, the limit is {CALL_BYTES_MAX}")
        return ids, items

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        """See `Bus.publish`."""
        if len(drafts) == 1:
            return await self._publish_lone(drafts[0], timeout_s)
        if not drafts:
            return []
        ids, items = self._items(drafts)
        rid = self._rid()
        (answer,) = await self._call([_PUBLISH, rid, items], rid, timeout_s)
        return _receipts(ids, answer)

    async def _publish_lone(self, draft: Draft, timeout_s: float | None) -> list[Receipt]:
        """One message: it shares an operation with the others of this turn of the event loop."""
        message_id, item = self._item(draft)
        rid = self._next_lone
        self._next_lone = rid + 1
        each = self._each
        if each is None or len(each[2]) >= CALL_MESSAGES_MAX or self._each_bytes > FRAME_BYTES_GOOD:
            each = self._each = [_PUBLISH_EACH, rid, []]
            self._each_bytes = 0
            self._say(each)
        each[2].append(item)
        self._each_bytes += len(item)
        if len(each[2]) == EACH_MESSAGES_GOOD:
            self._link.flush()
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._calls[rid] = ([_PUBLISH, rid, [item]], future)
        ((seq,),) = await self._answered(rid, future, timeout_s)
        return [Receipt(message_id, abs(seq), seq < 0)]

    async def ack(self, delivery: Delivery, *drafts: Draft) -> list[Receipt]:
        """See `Bus.ack`."""
        token: Token = delivery.token
        group = token.stream.subscription.group
        try:
            if not drafts:
                await self._ack_alone(group, token.offsets)
                return []
            ids, items = self._items(drafts)
            rid = self._rid()
            (answer,) = await self._call([_ACK, rid, group, token.offsets, items], rid, None)
        finally:
            token.held.discard(token.offset)
        return _receipts(ids, answer)

    async def ack_all(self, deliveries: Sequence[Delivery]) -> None:
        """See `Bus.ack_all`."""
        groups: dict[str, list[int]] = {}
        for delivery in deliveries:
            groups.setdefault(delivery.token.stream.subscription.group, []).extend(delivery.token.offsets)
        try:
            for waiter in [self._ack_alone(group, offsets) for group, offsets in groups.items()]:
                await waiter
        finally:
            for delivery in deliveries:
                delivery.token.held.discard(delivery.token.offset)

    def _ack_alone(self, group: str, offsets: Sequence[int]) -> asyncio.Future[None]:
        """Acks that cause nothing share an operation with the others of this turn of the event loop."""
        together = self._acking.get(group)
        if together is None:
            rid = self._rid()
            together = self._acking[group] = Acks([_ACK, rid, group, [], []])
            future: asyncio.Future[Any] = self._loop.create_future()
            future.add_done_callback(together.settle)
            self._calls[rid] = (together.operation, future)
            self._say(together.operation)
        waiter: asyncio.Future[None] = self._loop.create_future()
        together.operation[3] += offsets
        together.waiters.append(waiter)
        return waiter

    async def nack(self, delivery: Delivery, *, delay_ms: int | None = None, error: str = "") -> None:
        """See `Bus.nack`."""
        token: Token = delivery.token
        token.held.discard(token.offset)
        for offset in token.offsets:
            self._say([Op.NACK, token.stream.subscription.group, offset, delay_ms, error])

    async def term(self, delivery: Delivery, reason: str) -> None:
        """See `Bus.term`."""
        token: Token = delivery.token
        token.held.discard(token.offset)
        for offset in token.offsets:
            self._say([Op.TERM, token.stream.subscription.group, offset, reason])

    async def in_progress(self, delivery: Delivery) -> None:
        """See `Bus.in_progress`."""
        token: Token = delivery.token
        for offset in token.offsets:
            self._say([Op.PROGRESS, token.stream.subscription.group, offset])

    def subscribe(self, subscription: Subscription) -> Deliveries:
        """See `Bus.subscribe`."""
        stream = Stream(self._rid(), subscription, self._unsubscribe)
        self._streams[stream.sid] = stream
        self._say(stream.operation())
        return stream

    def _unsubscribe(self, stream: Stream) -> None:
        if self._streams.pop(stream.sid, None) is not None:
            self._say([Op.UNSUBSCRIBE, stream.sid])

    async def replay(self, session_id: str, last_seen_seq: int) -> AsyncIterator[Envelope]:
        """See `Bus.replay`."""
        if not 0 <= last_seen_seq <= ANY_NUMBER:
            # The broker would cut us off for it, and we would come again with the same question, for ever.
            raise ValueError(f"{last_seen_seq} is no place in a session: 0 or more is wanted")
        after = last_seen_seq
        rid, page = self._ask_page(session_id, after)
        try:
            while True:
                rows, _last = await page
                after = rows[-1][0] if rows else after
                # The next page is on its way while this one is read.
                rid, page = self._ask_page(session_id, after)
                for envelope in placed_all(rows):
                    yield envelope
        finally:
            self._calls.pop(rid, None)
            if not page.cancel() and not page.cancelled():
                page.exception()  # nobody will ask for it any more

    async def seek(self, session_id: str, *, since_ms: int = 0, last: int | None = None) -> int:
        """See `Bus.seek`."""
        most = ANY_NUMBER if last is None else last
        if not (0 <= since_ms <= ANY_NUMBER and 0 <= most <= ANY_NUMBER):
            raise ValueError(f"since {since_ms} ms, the last {last}: 0 or more is wanted")
        rid = self._rid()
        (after,) = await self._call([int(Op.SEEK), rid, session_id, since_ms, most], rid, None)
        return int(after)

    def _ask_page(self, session: str, after: int) -> tuple[int, asyncio.Future[list[Any]]]:
        rid = self._rid()
        page = self._asked([int(Op.REPLAY), rid, session, after, REPLAY_MESSAGES, REPLAY_WAIT_MS], rid)
        self._link.flush()
        return rid, page

    async def request(
        self, service: str, question: msgspec.Struct, answer: type[Answer], *, timeout_s: float = 5.0
    ) -> Answer:
        """See `Bus.request`."""
        rid = self._rid()
        operation = [Op.REQUEST, rid, service, int(timeout_s * 1000), msgspec.msgpack.encode(question)]
        (raw,) = await self._call(operation, rid, timeout_s)
        try:
            return msgspec.msgpack.decode(raw, type=answer)
        except msgspec.ValidationError as error:
            raise _no_such_answer(service, raw) from error

    async def serve(self, handler: Callable[[str, bytes], Awaitable[msgspec.Struct]]) -> None:
        """See `Bus.serve`."""
        self._server = handler
        self._say([Op.SERVE])

    async def _answer(self, bid: int, asker: str, body: bytes) -> None:
        try:
            if self._server is None:
                raise RuntimeError("a request came before serve()")
            answer = await self._server(asker, body)
        except Exception as error:
            # The asker is told, and the log; the connection goes on.
            log.exception("a request failed")
            answer = Failed(reason=f"{type(error).__name__} inside {self.name}", code="internal")
        self._say([Op.ANSWER, bid, msgspec.msgpack.encode(answer)])

    async def put_blob(self, data: bytes) -> str:
        """See `Bus.put_blob`."""
        handle = handle_of(data)
        start, again = 0, 0
        while True:
            part = data[start:start + PART_BYTES_MAX]
            rid = self._rid()
            last = start + len(part) >= len(data)
            try:
                (done,) = await self._call([int(Op.BLOB_PUT), rid, handle, start, part, last], rid, None)
            except Refused as refused:
                # The broker was started anew in the middle: it knows nothing of the first parts.
                if refused.code != "malformed" or start == 0 or again >= UPLOAD_TRIES_MAX:
                    raise
                start, again = 0, again + 1
                continue
            if done:
                return handle
            start += len(part)

    async def get_blob(self, handle: str) -> bytes:
        """See `Bus.get_blob`."""
        parts: list[bytes] = []
        size = 0
        while True:
            rid = self._rid()
            part, whole = await self._call([int(Op.BLOB_GET), rid, handle, size], rid, None)
            parts.append(part)
            size += len(part)
            if size >= whole or not part:
                break
        data = b"".join(parts)
        if handle_of(data) != handle:
            raise Refused("damaged", f"{handle} is not what its name says: it is damaged on disk")
        return data

    async def close(self) -> None:
        """See `Bus.close`."""
        if self._link.closed:
            return
        for task in list(self._answering):
            task.cancel()
        await self._link.close([[Op.UNSUBSCRIBE, sid] for sid in self._streams])
        for _, future in self._calls.values():
            future.cancel()


def _receipts(ids: list[bytes], answer: list[int]) -> list[Receipt]:
    return [Receipt(message_id, abs(seq), seq < 0) for message_id, seq in zip(ids, answer, strict=True)]


def _no_such_answer(service: str, raw: bytes) -> NotAnswered:
    try:
        why = msgspec.msgpack.decode(raw, type=Failed).reason
    except msgspec.ValidationError as error:
        why = f"not an answer to this question: {error}"
    return NotAnswered(f"{service}: {why}")


def _refusal(code: str, why: str, retry_after_ms: int, operation: list[Any]) -> Exception:
    if code == "no_responder":
        return NoResponder(why)
    if code == "timeout":
        return BusTimeout(why)
    if code == "gap":
        return Gap(operation[2], operation[3], int(why))
    if code == "epoch":
        return EpochMismatch(why)
    return Refused(code, why, retry_after_ms)
