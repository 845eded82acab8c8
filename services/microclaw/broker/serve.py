"""The broker's sockets: drain, one turn of the engine, send. One thread, no event loop library.

Who a client is, the kernel says: on `ipc://` libzmq reports the peer's uid and pid (SO_PEERCRED), and only our own user
may speak. A client that dies is noticed at once by its pidfd (Linux), elsewhere by its silence.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import signal
import time
from collections.abc import Callable

import msgspec
import zmq

from microclaw.bus.calls import Client
from microclaw.bus.curve import Authenticator, KeyRing
from microclaw.bus.engine import Engine
from microclaw.bus.wire import FRAME_BYTES_MAX, SILENCE_S, Op, decode_frame, frames
from microclaw.core.errors import UsageError

#: As plain numbers: an enum's `|` is a call into Python, for every frame.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_HELLO = int(Op.HELLO)
#: Frames taken from the sockets before a turn.
DRAIN_FRAMES_MAX = 1_000
#: Frames waiting for one client; one that reads no faster is cut off, and comes back when it does.
SEND_FRAMES_MAX = 10_000
#: Frames of one client waiting for the broker; further ones wait at the client.
RECEIVE_FRAMES_MAX = 32
#: What an operation that is none raises.
GARBAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, msgspec.DecodeError, RecursionError)
#: File descriptors wanted at the start, if the system lets us.
DESCRIPTORS_WANTED = 65_536
#: Bytes taken from one socket before a turn, about.
DRAIN_BYTES_MAX = 8 << 20
#: Retention is looked at so often, and also while there is still something to delete.
EXPIRE_EVERY_S = 60.0
#: Under load the poller is asked so often, beside draining the socket, seconds.
POLL_EVERY_S = 0.01
#: How often the silent are looked for.
SILENCE_CHECK_S = 0.5

log = logging.getLogger("microclaw.broker")


class Server:
    """The bound socket and the loop around an engine."""

    def __init__(self, engine: Engine, address: str, *, listen: str = "", ring: KeyRing | None = None) -> None:
        """Bind. `listen` is a `tcp://` address for peers on other machines, known by their keys in `ring`.

        :raises UsageError: `listen` can't be bound, or there are no keys for it.
        """
        self._engine = engine
        self._context = zmq.Context()
        self._local = self._router()
        self._bind(address)
        self._poller = zmq.Poller()
        self._poller.register(self._local, zmq.POLLIN)
        self._sockets = [self._local]
        #: Which socket a client is on.
        self._on: dict[bytes, zmq.Socket[bytes]] = {}
        self._authenticator: Authenticator | None = None
        self._ring = ring
        if listen:
            self._listen(listen, ring)
        self._heard: dict[bytes, float] = {}
        self._pidfds: dict[int, bytes] = {}
        self._stopping = False

    def _bind(self, address: str) -> None:
        previous = os.umask(0o177)
        try:
            self._local.bind(address)
        finally:
            os.umask(previous)

    def _router(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        socket.setsockopt(zmq.SNDHWM, SEND_FRAMES_MAX)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_FRAMES_MAX)
        socket.setsockopt(zmq.LINGER, 200)
        return socket

    def _listen(self, address: str, ring: KeyRing | None) -> None:
        if ring is None:
            raise UsageError(f"{address}: a bus over tcp needs keys, and here are none")
        self._authenticator = Authenticator(self._context, ring)
        self._poller.register(self._authenticator.socket, zmq.POLLIN)
        socket = self._router()
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, ring.pair()[1])
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise UsageError(f"bus.listen: {address} can't be bound ({error}): choose another address") from error
        self._poller.register(socket, zmq.POLLIN)
        self._sockets.append(socket)

    def stop(self) -> None:
        """End the loop after this turn; callable from a signal handler."""
        self._stopping = True

    def run(self, *, now_and_then: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; `now_and_then` is called every `SILENCE_CHECK_S`."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        self._poller.register(wake_read, zmq.POLLIN)
        expire_at = silence_at = time.monotonic()
        polled_at = 0.0
        more = False
        while not self._stopping:
            now = time.monotonic()
            # What came while the last turn was on its way to the disk is taken without asking the kernel, but not so
            # often that a dead client or a signal goes unseen.
            if polled_at < now - POLL_EVERY_S or not self._drain():
                polled_at = now
                due = now if more else min(self._engine.next_due() or now + 60, expire_at, silence_at)
                died = []
                for fd, _ in self._poller.poll(math.ceil(max(0.0, due - now) * 1000)):
                    if self._authenticator is not None and fd is self._authenticator.socket:
                        self._authenticator.answer()
                    elif fd in self._pidfds:
                        died.append(self._pidfds[int(fd)])
                    elif fd == wake_read:
                        os.read(wake_read, 64)
                self._drain()
                # What they said before they died counts.
                for routing in died:
                    self._died(routing)
            self._send(self._engine.turn())
            more = self._engine.upkeep.tidy()
            now = time.monotonic()
            if now >= silence_at:
                self._cut_silent(now)
                now_and_then()
                silence_at = now + SILENCE_CHECK_S
            if now >= expire_at:
                expire_at = now + (0.05 if self._engine.upkeep.expire() else EXPIRE_EVERY_S)
        signal.set_wakeup_fd(-1)
        for socket in self._sockets:
            socket.close()
        if self._authenticator is not None:
            self._authenticator.socket.close(linger=0)
        self._context.term()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        """Take what is there, so many frames of each socket at most; how many there were."""
        return sum(self._drain_one(socket) for socket in self._sockets)

    def _drain_one(self, socket: zmq.Socket[bytes]) -> int:
        taken = 0
        for number in range(DRAIN_FRAMES_MAX):
            try:
                routing = socket.recv(_NOBLOCK)
            except zmq.Again:
                return number
            client = self._engine.clients.get(routing)
            if client is None or self._on.get(routing) is not socket:
                self._stranger(routing, socket)
                continue
            self._heard[routing] = time.monotonic()
            frame = socket.recv()
            while socket.getsockopt(zmq.RCVMORE):
                socket.recv()
            self._take(client, frame)
            taken += len(frame)
            if taken > DRAIN_BYTES_MAX:
                return number + 1
        return DRAIN_FRAMES_MAX

    def _take(self, client: Client, frame: bytes) -> None:
        try:
            for operation in decode_frame(frame):
                if operation and operation[0] == _HELLO:
                    # It gave us up (it was stopped for a while, say) and starts over on the connection that it has. Who
                    # it is was asked when it came: it stays that.
                    if operation[2] != client.name:
                        raise ValueError("it says another name than before")
                    self._engine.gone(client.routing, clean=False)
                    again = self._engine.hello(client.routing, operation, client.pid)
                    if again is None:
                        return
                    client = again
                    continue
                self._engine.receive(client, operation)
        except GARBAGE as error:
            log.warning("a client sent garbage: cut off", extra={"client": client.name, "error": str(error)[:200]})
            self._forget(client.routing, clean=False)

    def _stranger(self, routing: bytes, socket: zmq.Socket[bytes]) -> None:
        """The first frame of a connection: HELLO, or it is asked for one."""
        frame = socket.recv(copy=False)
        while socket.getsockopt(zmq.RCVMORE):
            socket.recv()
        try:
            operations = decode_frame(frame.bytes)
            if not operations or operations[0][0] != Op.HELLO:
                self._say(socket, routing, [[Op.UNKNOWN]])
                return
            if self._on.get(routing, socket) is not socket:
                # Another connection has this number (they are random per socket): this one must come again.
                self._say(socket, routing, [[Op.REFUSED, 0, "busy", "connect again", 0]])
                return
            pid = 0
            if socket is self._local:
                uid, pid = _peer(frame)
                if uid is not None and uid != os.getuid():
                    log.warning("a foreign user was refused", extra={"uid": uid, "pid": pid})
                    self._say(socket, routing, [[Op.REFUSED, 0, "denied", f"user {uid} may not use this bus", 0]])
                    return
            elif why := self._wrong_key(str(frame.get("User-Id")), operations[0][2]):
                owner = str(frame.get("User-Id"))
                self._engine.denied(owner, "connect", why)
                self._say(socket, routing, [[Op.REFUSED, 0, "denied", why, 0]])
                return
            self._on[routing] = socket
            client = self._engine.hello(routing, operations[0], pid)
            if client is None:
                return
            self._heard[routing] = time.monotonic()
            self._watch(client)
            for operation in operations[1:]:
                self._engine.receive(client, operation)
        except GARBAGE as error:
            log.warning("a stranger sent garbage", extra={"error": str(error)[:200]})
            self._forget(routing, clean=False)
            self._say(socket, routing, [[Op.REFUSED, 0, "malformed", "that is not this bus's protocol", 0]])

    def _wrong_key(self, owner: str, name: object) -> str:
        if owner != name:
            return f"the key is that of {owner}, not of {name}"
        if self._ring is None or owner not in self._ring.names():
            return f"the key of {owner} is void"
        return ""

    def _watch(self, client: Client) -> None:
        if client.pid and hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(client.pid)
            except OSError:
                return
            self._pidfds[fd] = client.routing
            self._poller.register(fd, zmq.POLLIN)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _died(self, routing: bytes) -> None:
        client = self._engine.clients.get(routing)
        if client is not None:
            log.info("the process of a client ended", extra={"client": client.name, "pid": client.pid})
        self._forget(routing, clean=False)

    def _cut_silent(self, now: float) -> None:
        for routing in [routing for routing in self._on if routing not in self._engine.clients]:
            # Refused at its greeting, or gone by the engine's own decision.
            self._forget(routing, clean=False)
        for routing, heard in list(self._heard.items()):
            if now - heard > SILENCE_S:
                client = self._engine.clients.get(routing)
                log.warning("a client is silent and is given up", extra={"client": client.name if client else "?"})
                self._forget(routing, clean=False)

    def _forget(self, routing: bytes, *, clean: bool) -> None:
        self._engine.gone(routing, clean=clean)
        self._heard.pop(routing, None)
        self._on.pop(routing, None)
        for fd, owner in list(self._pidfds.items()):
            if owner == routing:
                self._poller.unregister(fd)
                os.close(fd)
                del self._pidfds[fd]

    # --- writing ----------------------------------------------------------------------------------------------------

    def _send(self, out: dict[bytes, list[list[object]]]) -> None:
        for routing, operations in out.items():
            if not self._say(self._on.get(routing, self._local), routing, operations):
                self._forget(routing, clean=False)

    @staticmethod
    def _say(socket: zmq.Socket[bytes], routing: bytes, operations: list[list[object]]) -> bool:
        """Send these; False = they can't be had by whom they are for."""
        try:
            for _, frame in frames(operations):
                socket.send(routing, _NOBLOCK_MORE)
                socket.send(frame, _NOBLOCK)
        except zmq.Again:
            log.warning("a client does not read and is cut off")
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True


def want_descriptors() -> None:
    """Raise the limit of open files as far as we may: each client costs two, and libzmq ends the process when
    `accept()` on a Unix socket finds none left (closing the listener instead would cut every client off)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own; the old one still holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _peer(frame: zmq.Frame) -> tuple[int | None, int]:
    """(uid, pid) of the process that sent this, by the kernel; (None, 0) where the transport can't say."""
    with contextlib.suppress(zmq.ZMQError, ValueError, TypeError):
        # libzmq: "localhost:<uid>:<gid>:<pid>" on ipc
        _, uid, _, pid = str(frame.get("Peer-Address")).split(":")
        return int(uid), int(pid)
    return None, 0

