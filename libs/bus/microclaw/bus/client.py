"""The client: one DEALER socket, driven by the event loop's file descriptor readiness.

Nothing here waits per message: the socket is drained until it is empty whenever its descriptor fires and after every
send (libzmq's descriptor is edge-triggered, and a send may swallow the edge). What was not answered when the connection
broke is sent again after the next HELLO; the broker knows repeats by their ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import zmq

from microclaw.bus import wire
from microclaw.bus.api import Bus, Delivery, Draft, Receipt, Subscription
from microclaw.bus.blobs import PART_BYTES_MAX, handle_of
from microclaw.bus.curve import KeyFileError, PeerKeys
from microclaw.bus.envelope import VERSION, Envelope, encode, placed, placed_all
from microclaw.bus.errors import BusTimeout, EpochMismatch, Gap, NoResponder, Refused
from microclaw.bus.stream import Acks, Stream, Token
from microclaw.bus.wire import PING_S, Op
from microclaw.core.ids import new_id
from microclaw.core.requests import Failed

#: Without a word from the broker for so long, it is taken for gone (and said HELLO to again).
BROKER_SILENCE_S = 2.0
#: A refusal that may pass (`no_space`, `busy`) is tried again after this, unless the broker says when.
RETRY_S = 0.5
#: Messages asked for in one replay question.
REPLAY_MESSAGES = 1_000
#: How often a blob is begun anew because the broker was.
UPLOAD_TRIES_MAX = 20
#: How long one replay question waits for something new.
REPLAY_WAIT_MS = 20_000

Answer = TypeVar("Answer")

#: What comes for each message is compared and encoded as plain numbers: an IntEnum costs ten times as much.
_PUBLISH = int(Op.PUBLISH)
_ACK = int(Op.ACK)
_ANSWERS = frozenset({int(Op.PUBLISH), int(Op.REQUEST), int(Op.REPLAY), int(Op.BLOB_PUT), int(Op.BLOB_GET)})

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
        self.epoch = ""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.FRAME_BYTES_MAX)
        if keys is not None:
            keys.put_on(self._socket)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._instance = os.urandom(8)
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._out: list[list[Any]] = []
        self._flush_planned = False
        #: rid → (operation to send again after a reconnect, future).
        self._calls: dict[int, tuple[list[Any], asyncio.Future[Any]]] = {}
        self._next = 1
        #: Group → the acks that go with the next flush.
        self._acking: dict[str, Acks] = {}
        self._streams: dict[int, Stream] = {}
        self._server: Callable[[str, bytes], Awaitable[msgspec.Struct]] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._heard = time.monotonic()
        self._hello_sent = 0.0
        self._closed = False
        self._pinging = asyncio.create_task(self._ping(), name="bus ping")

    async def connected(self) -> None:
        """Until the broker has greeted us."""
        await asyncio.shield(self._greeted)

    # --- sockets ----------------------------------------------------------------------------------------------------

    def _say(self, operation: list[Any]) -> None:
        """Send with the next flush, if we are greeted; what must not be lost is kept by the caller until answered."""
        self._out.append(operation)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        self._acking.clear()
        if self._closed or not self._out or not self._greeted.done():
            return
        batch, self._out = self._out, []
        self._send_now(batch)

    def _send_now(self, operations: list[list[Any]]) -> bool:
        try:
            self._socket.send(wire.encode_frame(operations), zmq.NOBLOCK)
        except zmq.Again:
            # Not connected, or the broker is behind: keep it and come back.
            if operations[0][0] != Op.HELLO:
                self._out = operations + self._out
                if not self._flush_planned:
                    self._flush_planned = True
                    self._loop.call_later(0.02, self._flush)
            return False
        self._loop.call_soon(self._drain)
        return True

    def _drain(self) -> None:
        while not self._closed:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard = time.monotonic()
            for operation in wire.decode_frame(frame):
                self._on(operation)

    async def _ping(self) -> None:
        while True:
            now = time.monotonic()
            if not self._greeted.done():
                # A HELLO may be lost with the connection it was sent on.
                if now - self._hello_sent > 0.2 and self._send_now(self._hello()):
                    self._hello_sent = now
                await asyncio.sleep(0.02)
                continue
            if now - self._heard > BROKER_SILENCE_S:
                self._lost("the broker is silent")
                continue
            self._say([Op.PING])
            await asyncio.sleep(PING_S)

    def _hello(self) -> list[list[Any]]:
        return [[Op.HELLO, wire.PROTOCOL, self.name, self._instance]]

    def _lost(self, why: str) -> None:
        """Start over with a HELLO; what is unanswered goes again after it."""
        if self._greeted.done():
            log.info("connection lost", extra={"why": why})
            self._greeted = self._loop.create_future()
            self._out.clear()
            self._acking.clear()
            self._hello_sent = 0.0

    # --- what the broker says ---------------------------------------------------------------------------------------

    def _on(self, operation: list[Any]) -> None:
        op = operation[0]
        if op in _ANSWERS:
            self._settle(operation[1], operation[2:])
        elif op == Op.DELIVER:
            self._on_deliver(operation[1], operation[2])
        elif op == Op.ASKED:
            task = asyncio.create_task(self._answer(*operation[1:]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif op == Op.REFUSED:
            self._on_refused(*operation[1:])
        elif op == Op.HELLO:
            self._on_hello(operation[2])
        elif op == Op.UNKNOWN:
            self._lost("the broker does not know us")

    def _on_hello(self, epoch: str) -> None:
        if self._greeted.done():
            return
        if self.epoch and epoch != self.epoch:
            log.warning("the journal is another one than before", extra={"epoch": epoch})
        self.epoch = epoch
        self._greeted.set_result(None)
        again: list[list[Any]] = [stream.operation() for stream in self._streams.values()]
        if self._server is not None:
            again.append([Op.SERVE])
        again += [operation for operation, _ in self._calls.values()]
        self._out.clear()
        for operation in again:
            self._say(operation)

    def _on_refused(self, rid: int, code: str, why: str, retry_after_ms: int) -> None:
        if rid == 0:
            error = Refused(code, why)
            if not self._greeted.done():
                self._greeted.set_exception(error)
            return
        if rid in self._streams:
            self._streams[rid].queue.append(Refused(code, why))
            self._streams[rid].wake()
            return
        call = self._calls.get(rid)
        if call is None:
            return
        if code in ("no_space", "busy") and call[0][0] in (Op.PUBLISH, Op.ACK):
            # It may pass: the caller goes on waiting, as for a broker that is away.
            log.warning("the broker can't take it now", extra={"code": code, "why": why})
            self._loop.call_later(retry_after_ms / 1000 or RETRY_S, self._again, rid)
            return
        _, future = self._calls.pop(rid)
        if not future.done():
            future.set_exception(_refusal(code, why, retry_after_ms, call[0]))

    def _again(self, rid: int) -> None:
        if call := self._calls.get(rid):
            self._say(call[0])

    def _settle(self, rid: int, answer: list[Any]) -> None:
        call = self._calls.pop(rid, None)
        if call is not None and not call[1].done():
            call[1].set_result(answer)

    def _on_deliver(self, sid: int, batch: list[list[Any]]) -> None:
        stream = self._streams.get(sid)
        if stream is None:
            return
        for offset, seq, count, body in batch:
            if offset not in stream.open:
                stream.open.add(offset)
                stream.queue.append(Delivery(placed(body, seq), count, Token(stream, offset)))
        stream.wake()

    async def _call(self, operation: list[Any], rid: int, timeout_s: float | None) -> list[Any]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._calls[rid] = (operation, future)
        self._say(operation)
        try:
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

    def _encode(self, drafts: tuple[Draft, ...]) -> tuple[list[bytes], list[Any]]:
        now_ms = time.time_ns() // 1_000_000
        ids: list[bytes] = []
        items: list[Any] = []
        for draft in drafts:
            message_id = draft.message_id or new_id(now_ms)
            raw = draft.payload if isinstance(draft.payload, bytes) else msgspec.msgpack.encode(draft.payload)
            ids.append(message_id)
            body = encode(Envelope(
                v=VERSION, seq=0, ts_ms=now_ms if draft.ts_ms is None else draft.ts_ms, source=self.name,
                device_id=draft.device_id, session_id=draft.session_id, message_id=message_id,
                payload=msgspec.Raw(raw),
            ))
            plain = not (
                draft.not_before_ms or draft.expires_ms or draft.expected_last_seq is not None or draft.blobs
            )
            items.append(body if plain else [
                body, draft.not_before_ms, draft.expires_ms, draft.expected_last_seq, list(draft.blobs)
            ])
        return ids, items

    async def publish(self, *drafts: Draft, timeout_s: float | None = None) -> list[Receipt]:
        """See `Bus.publish`."""
        if not drafts:
            return []
        ids, items = self._encode(drafts)
        rid = self._rid()
        (answer,) = await self._call([_PUBLISH, rid, items], rid, timeout_s)
        return [Receipt(message_id, seq, dup) for message_id, (seq, dup) in zip(ids, answer, strict=True)]

    async def ack(self, delivery: Delivery, *drafts: Draft) -> list[Receipt]:
        """See `Bus.ack`."""
        token: Token = delivery.token
        group = token.stream.subscription.group
        try:
            if not drafts:
                await self._ack_alone(group, token.offset)
                return []
            ids, items = self._encode(drafts)
            rid = self._rid()
            (answer,) = await self._call([_ACK, rid, group, [token.offset], items], rid, None)
        finally:
            token.stream.open.discard(token.offset)
        return [Receipt(message_id, seq, dup) for message_id, (seq, dup) in zip(ids, answer, strict=True)]

    def _ack_alone(self, group: str, offset: int) -> asyncio.Future[None]:
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
        together.operation[3].append(offset)
        together.waiters.append(waiter)
        return waiter

    async def nack(self, delivery: Delivery, *, delay_ms: int | None = None, error: str = "") -> None:
        """See `Bus.nack`."""
        token: Token = delivery.token
        token.stream.open.discard(token.offset)
        self._say([Op.NACK, token.stream.subscription.group, token.offset, delay_ms, error])

    async def term(self, delivery: Delivery, reason: str) -> None:
        """See `Bus.term`."""
        token: Token = delivery.token
        token.stream.open.discard(token.offset)
        self._say([Op.TERM, token.stream.subscription.group, token.offset, reason])

    async def in_progress(self, delivery: Delivery) -> None:
        """See `Bus.in_progress`."""
        token: Token = delivery.token
        self._say([Op.PROGRESS, token.stream.subscription.group, token.offset])

    def subscribe(self, subscription: Subscription) -> AsyncIterator[Delivery]:
        """See `Bus.subscribe`."""
        stream = Stream(self._rid(), subscription)
        self._streams[stream.sid] = stream
        self._say(stream.operation())
        return stream

    async def replay(self, session_id: str, last_seen_seq: int) -> AsyncIterator[Envelope]:
        """See `Bus.replay`."""
        after = last_seen_seq
        coming = asyncio.ensure_future(self._replayed(session_id, after))
        try:
            while True:
                rows = await coming
                after = rows[-1][0] if rows else after
                # The next page is on its way while this one is read.
                coming = asyncio.ensure_future(self._replayed(session_id, after))
                for envelope in placed_all(rows):
                    yield envelope
        finally:
            if not coming.cancel() and not coming.cancelled():
                coming.exception()  # nobody will ask for it any more

    async def _replayed(self, session_id: str, after: int) -> list[tuple[int, bytes]]:
        rid = self._rid()
        rows, _last = await self._call(
            [Op.REPLAY, rid, session_id, after, REPLAY_MESSAGES, REPLAY_WAIT_MS], rid, None
        )
        return cast("list[tuple[int, bytes]]", rows)

    async def request(
        self, service: str, question: msgspec.Struct, answer: type[Answer], *, timeout_s: float = 5.0
    ) -> Answer:
        """See `Bus.request`."""
        rid = self._rid()
        operation = [Op.REQUEST, rid, service, int(timeout_s * 1000), msgspec.msgpack.encode(question)]
        (raw,) = await self._call(operation, rid, timeout_s)
        return msgspec.msgpack.decode(raw, type=answer)

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
        if self._closed:
            return
        self._pinging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pinging
        for task in list(self._answering):
            task.cancel()
        if self._greeted.done() and not self._greeted.cancelled() and self._greeted.exception() is None:
            for sid in self._streams:
                self._say([Op.UNSUBSCRIBE, sid])
            self._flush()
        self._closed = True
        self._loop.remove_reader(self._fd)
        for _, future in self._calls.values():
            future.cancel()
        self._socket.close()
        self._context.term()


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
