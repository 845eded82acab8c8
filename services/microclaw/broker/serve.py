"""The broker's sockets: drain, one turn of the engine, send. One thread, no event loop library.

Who a client is, the kernel says: on `ipc://` libzmq reports the peer's uid and pid (SO_PEERCRED), and only our own user
may speak. A client that dies is noticed at once by its pidfd (Linux), elsewhere by its silence.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable

import msgspec
import zmq

from microclaw.bus.engine import Client, Engine
from microclaw.bus.wire import FRAME_BYTES_MAX, SILENCE_S, Op, decode_frame, encode_frame

#: As plain numbers: an enum's `|` is a call into Python, for every frame.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
#: Frames taken from the sockets before a turn.
DRAIN_FRAMES_MAX = 1_000
#: Frames waiting for one client; one that reads no faster is cut off, and comes back when it does.
SEND_FRAMES_MAX = 10_000
#: Retention is looked at so often, and also while there is still something to delete.
EXPIRE_EVERY_S = 60.0
#: Under load the poller is asked so often, beside draining the socket, seconds.
POLL_EVERY_S = 0.01
#: How often the silent are looked for.
SILENCE_CHECK_S = 0.5

log = logging.getLogger("microclaw.broker")


class Server:
    """The bound socket and the loop around an engine."""

    def __init__(self, engine: Engine, address: str) -> None:
        self._engine = engine
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self._socket.setsockopt(zmq.SNDHWM, SEND_FRAMES_MAX)
        self._socket.setsockopt(zmq.LINGER, 200)
        previous = os.umask(0o177)
        try:
            self._socket.bind(address)
        finally:
            os.umask(previous)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._heard: dict[bytes, float] = {}
        self._pidfds: dict[int, bytes] = {}
        self._stopping = False

    def stop(self) -> None:
        """End the loop after this turn; callable from a signal handler."""
        self._stopping = True

    def run(self, *, before_turn: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`. `before_turn` is for fault injection in tests."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        self._poller.register(wake_read, zmq.POLLIN)
        expire_at = silence_at = time.monotonic()
        polled_at = 0.0
        while not self._stopping:
            now = time.monotonic()
            due = min(self._engine.next_due() or now + 60, expire_at, silence_at)
            # What came while the last turn was on its way to the disk is taken without asking the kernel, but not so
            # often that a dead client or a signal goes unseen.
            if polled_at < now - POLL_EVERY_S or not self._drain():
                polled_at = now
                for fd, _ in self._poller.poll(math.ceil(max(0.0, due - now) * 1000)):
                    if fd in self._pidfds:
                        self._died(int(fd))
                    elif fd == wake_read:
                        os.read(wake_read, 64)
                self._drain()
            before_turn()
            self._send(self._engine.turn())
            now = time.monotonic()
            if now >= silence_at:
                self._cut_silent(now)
                silence_at = now + SILENCE_CHECK_S
            if now >= expire_at:
                expire_at = now + (0.05 if self._engine.expire() else EXPIRE_EVERY_S)
        signal.set_wakeup_fd(-1)
        self._socket.close()
        self._context.term()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        """Take what is there, so many frames at most; how many there were."""
        for number in range(DRAIN_FRAMES_MAX):
            try:
                routing = self._socket.recv(_NOBLOCK)
            except zmq.Again:
                return number
            client = self._engine.clients.get(routing)
            if client is None:
                self._stranger(routing)
                continue
            self._heard[routing] = time.monotonic()
            frame = self._socket.recv()
            while self._socket.getsockopt(zmq.RCVMORE):
                self._socket.recv()
            self._take(client, frame)
        return DRAIN_FRAMES_MAX

    def _take(self, client: Client, frame: bytes) -> None:
        try:
            for operation in decode_frame(frame):
                if operation and operation[0] == Op.HELLO:
                    # It gave us up (it was stopped for a while, say) and starts over on the connection that it has.
                    self._engine.gone(client.routing, clean=False)
                    again = self._engine.hello(client.routing, operation, client.pid)
                    if again is None:
                        return
                    client = again
                    continue
                self._engine.receive(client, operation)
        except (ValueError, TypeError, LookupError, msgspec.DecodeError, RecursionError) as error:
            log.warning("a client sent garbage: cut off", extra={"client": client.name, "error": str(error)[:200]})
            self._forget(client.routing, clean=False)

    def _stranger(self, routing: bytes) -> None:
        """The first frame of a connection: HELLO, or it is asked for one."""
        frame = self._socket.recv(copy=False)
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()
        try:
            operations = decode_frame(frame.bytes)
            if not operations or operations[0][0] != Op.HELLO:
                self._send({routing: [[Op.UNKNOWN]]})
                return
            uid, pid = _peer(frame)
            if uid is not None and uid != os.getuid():
                log.warning("a foreign user was refused", extra={"uid": uid, "pid": pid})
                self._send({routing: [[Op.REFUSED, 0, "denied", f"user {uid} may not use this bus", 0]]})
                return
            client = self._engine.hello(routing, operations[0], pid)
            if client is None:
                return
            self._heard[routing] = time.monotonic()
            self._watch(client)
            for operation in operations[1:]:
                self._engine.receive(client, operation)
        except (ValueError, TypeError, LookupError, msgspec.DecodeError, RecursionError) as error:
            log.warning("a stranger sent garbage", extra={"error": str(error)[:200]})
            self._send({routing: [[Op.REFUSED, 0, "malformed", "that is not this bus's protocol", 0]]})

    def _watch(self, client: Client) -> None:
        if client.pid and hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(client.pid)
            except OSError:
                return
            self._pidfds[fd] = client.routing
            self._poller.register(fd, zmq.POLLIN)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _died(self, fd: int) -> None:
        routing = self._pidfds[fd]
        client = self._engine.clients.get(routing)
        if client is not None:
            log.info("a client died", extra={"client": client.name, "pid": client.pid})
        self._forget(routing, clean=False)

    def _cut_silent(self, now: float) -> None:
        for routing, heard in list(self._heard.items()):
            if now - heard > SILENCE_S:
                client = self._engine.clients.get(routing)
                log.warning("a client is silent and is given up", extra={"client": client.name if client else "?"})
                self._forget(routing, clean=False)

    def _forget(self, routing: bytes, *, clean: bool) -> None:
        self._engine.gone(routing, clean=clean)
        self._heard.pop(routing, None)
        for fd, owner in list(self._pidfds.items()):
            if owner == routing:
                self._poller.unregister(fd)
                os.close(fd)
                del self._pidfds[fd]

    # --- writing ----------------------------------------------------------------------------------------------------

    def _send(self, out: dict[bytes, list[list[object]]]) -> None:
        for routing, operations in out.items():
            try:
                self._socket.send(routing, _NOBLOCK_MORE)
                self._socket.send(encode_frame(operations), _NOBLOCK)
            except zmq.Again:
                log.warning("a client does not read and is cut off")
                self._forget(routing, clean=False)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._forget(routing, clean=False)


def _peer(frame: zmq.Frame) -> tuple[int | None, int]:
    """(uid, pid) of the process that sent this, by the kernel; (None, 0) where the transport can't say."""
    with contextlib.suppress(zmq.ZMQError, ValueError, TypeError):
        # libzmq: "localhost:<uid>:<gid>:<pid>" on ipc
        _, uid, _, pid = str(frame.get("Peer-Address")).split(":")
        return int(uid), int(pid)
    return None, 0

