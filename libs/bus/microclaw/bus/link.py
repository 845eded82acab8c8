"""The client's end of the connection: one DEALER socket, driven by the event loop's file descriptor readiness.

Nothing here waits per message: what is said in one turn of the event loop goes as one frame, and the socket is drained
until it is empty whenever its descriptor fires and after every send (libzmq's descriptor is edge-triggered, and a send
may swallow the edge).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

import zmq

from microclaw.bus import wire
from microclaw.bus.curve import PeerKeys
from microclaw.bus.errors import Refused
from microclaw.bus.wire import PING_S, Op

#: Without a word from the broker for so long, it is taken for gone (and said HELLO to again).
BROKER_SILENCE_S = 2.0
#: A socket that takes nothing now is tried again after this.
TRY_AGAIN_S = 0.02
#: A HELLO without an answer is said again after this: it may be lost with the connection that it was sent on.
HELLO_AGAIN_S = 0.2

#: As a plain number: an enum's `|` is a call into Python, for every frame.
_NOBLOCK = int(zmq.NOBLOCK)

log = logging.getLogger("microclaw.bus")


class _Context:
    """libzmq's context, with its thread, is one for all connections of a process. It ends with the last of them, which
    waits until what was said is on its way."""

    #: Of this process: a forked child has its own.
    _of: ClassVar[dict[int, _Context]] = {}

    def __init__(self) -> None:
        self.zmq = zmq.Context()
        self._users = 0

    @classmethod
    def taken(cls) -> _Context:
        """For one more connection."""
        context = cls._of.setdefault(os.getpid(), cls())
        context._users += 1
        return context

    def give_back(self) -> None:
        """That connection is closed."""
        self._users -= 1
        if not self._users:
            del self._of[os.getpid()]
            self.zmq.term()


class Link:
    """A connection that comes back by itself."""

    def __init__(
        self, address: str, name: str, keys: PeerKeys | None, *, heard: Callable[[list[Any]], None],
        again: Callable[[bool], list[list[Any]]], sealed: Callable[[], None],
    ) -> None:
        """`heard` is called with what the broker says; `again` says what must be said (again) after a HELLO (True: the
        broker's journal is another one than before: what its offsets stood for is void); `sealed`
        is called before a flush: operations said until then must not be changed any more."""
        self.epoch = ""
        self._name = name
        self._heard, self._again, self._sealed = heard, again, sealed
        self._loop = asyncio.get_running_loop()
        self._context = _Context.taken()
        self._socket = self._context.zmq.socket(zmq.DEALER)
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
        self._heard_at = time.monotonic()
        self._hello_at = 0.0
        self.closed = False
        self._pinging = asyncio.create_task(self._ping(), name="bus ping")

    async def connected(self) -> None:
        """Until the broker has greeted us. Raises Refused."""
        await asyncio.shield(self._greeted)

    def say(self, operation: list[Any]) -> None:
        """Send with the next flush, if we are greeted; what must not be lost is kept by the caller until answered."""
        self._out.append(operation)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_as_planned)

    # --- out --------------------------------------------------------------------------------------------------------

    def _flush_as_planned(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Send now what was said."""
        self._sealed()
        if self.closed or not self._out or not self._greeted.done():
            return
        batch, self._out = self._out, []
        for operations, frame in wire.frames(batch):
            # After one that could not go nothing may overtake it.
            if self._out or not self._send(frame):
                self._out += operations
        if self._out and not self._flush_planned:
            # Not connected, or the broker is behind.
            self._flush_planned = True
            self._loop.call_later(TRY_AGAIN_S, self._flush_as_planned)

    def _send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        self._loop.call_soon(self._drain)
        return True

    async def _ping(self) -> None:
        while True:
            now = time.monotonic()
            if not self._greeted.done():
                hello = [[Op.HELLO, wire.PROTOCOL, self._name, self._instance]]
                if now - self._hello_at > HELLO_AGAIN_S and self._send(wire.encode_frame(hello)):
                    self._hello_at = now
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            if now - self._heard_at > BROKER_SILENCE_S:
                self._lost("the broker is silent")
                continue
            self.say([Op.PING])
            await asyncio.sleep(PING_S)

    def _lost(self, why: str) -> None:
        """Start over with a HELLO; what is unanswered goes again after it."""
        if self._greeted.done():
            log.info("connection lost", extra={"why": why})
            self._greeted = self._loop.create_future()
            self._sealed()
            self._out.clear()
            self._hello_at = 0.0

    # --- in ---------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while not self.closed:
            try:
                frame = self._socket.recv(_NOBLOCK)
            except zmq.Again:
                return
            self._heard_at = time.monotonic()
            for operation in wire.decode_frame(frame):
                match operation[0]:
                    case Op.HELLO:
                        self._on_hello(operation[2])
                    case Op.UNKNOWN:
                        self._lost("the broker does not know us")
                    case Op.REFUSED if operation[1] == 0:
                        if not self._greeted.done():
                            self._greeted.set_exception(Refused(operation[2], operation[3]))
                    case Op.PING:
                        pass
                    case _:
                        self._heard(operation)

    def _on_hello(self, epoch: str) -> None:
        if self._greeted.done():
            return
        another = bool(self.epoch) and epoch != self.epoch
        if another:
            log.warning("the journal is another one than before", extra={"epoch": epoch})
        self.epoch = epoch
        self._greeted.set_result(None)
        self._sealed()
        self._out.clear()
        for operation in self._again(another):
            self.say(operation)

    async def close(self, last: list[list[Any]]) -> None:
        """Say these and go."""
        self._pinging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pinging
        if self._greeted.done() and not self._greeted.cancelled() and self._greeted.exception() is None:
            for operation in last:
                self.say(operation)
            self.flush()
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self._context.give_back()
