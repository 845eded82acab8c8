"""An engine without sockets, for tests: what clients say goes in by hand, what they are told comes out by `turn`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from microclaw.bus.api import Subscription
from microclaw.bus.ballast import Ballast
from microclaw.bus.blobs import BlobStore
from microclaw.bus.engine import Engine
from microclaw.bus.envelope import VERSION, Envelope, encode
from microclaw.bus.journal import Journal
from microclaw.bus.wire import PROTOCOL, Op
from microclaw.core.rights import Rights

ANYTHING = Rights(publish=(">",), read=(">",), ask=("*",), replay=("",), supervised=False)


@dataclass
class Clock:
    """Both clocks, moved by hand."""

    monotonic_s: float = 1_000.0
    wall_ms: int = 1_800_000_000_000

    def pass_(self, seconds: float) -> None:
        """Time goes by."""
        self.monotonic_s += seconds
        self.wall_ms += int(seconds * 1000)


@dataclass
class Peer:
    """A client: what it was told, by the id of its call."""

    name: str
    routing: bytes
    receipts: dict[int, list[list[Any]]] = field(default_factory=dict)
    refusals: dict[int, list[Any]] = field(default_factory=dict)
    #: (offset, seq, count, body), not looked at yet.
    delivered: list[list[Any]] = field(default_factory=list)
    replayed: dict[int, tuple[list[list[Any]], int]] = field(default_factory=dict)


class EngineAlone:
    """An engine, its journal and its clients."""

    def __init__(self, journal: Journal, clock: Clock | None = None, *, retention_ms: int = 86_400_000,
                 ballast: Ballast | None = None, blobs: BlobStore | None = None) -> None:
        self.clock = clock or Clock()
        self.journal = journal
        self.engine = Engine(
            journal, monotonic=lambda: self.clock.monotonic_s, wall_ms=lambda: self.clock.wall_ms,
            retention_ms=retention_ms, rights=lambda _name, _pid: ANYTHING, ballast=ballast, blobs=blobs,
        )
        self.peers: dict[bytes, Peer] = {}
        self._rid = 0

    def connect(self, name: str) -> Peer:
        """A new client."""
        routing = f"{name}/{len(self.peers)}".encode()
        self.peers[routing] = Peer(name, routing)
        self.engine.hello(routing, [Op.HELLO, PROTOCOL, name, routing], 0)
        return self.peers[routing]

    def say(self, peer: Peer, op: Op, *fields: Any) -> None:
        """Any operation."""
        self.engine.receive(self.engine.clients[peer.routing], [op, *fields])

    def publish(self, peer: Peer, *items: Any) -> int:
        """Returns the call's id. Items as on the wire."""
        self._rid += 1
        self.say(peer, Op.PUBLISH, self._rid, list(items))
        return self._rid

    def ack(self, peer: Peer, group: str, offsets: Sequence[int], *items: Any) -> int:
        """Returns the call's id."""
        self._rid += 1
        self.say(peer, Op.ACK, self._rid, group, list(offsets), list(items))
        return self._rid

    def subscribe(self, peer: Peer, wants: Subscription) -> int:
        """Returns the subscription's id."""
        self._rid += 1
        self.say(peer, Op.SUBSCRIBE, self._rid, wants.group, list(wants.kinds), wants.sessions, wants.max_in_flight,
                 wants.ack_wait_ms, wants.max_deliver, list(wants.backoff_ms), wants.start,
                 wants.in_order)
        return self._rid

    def replay(self, peer: Peer, session: str, after: int, limit: int = 1_000) -> int:
        """Returns the question's id."""
        self._rid += 1
        self.say(peer, Op.REPLAY, self._rid, session, after, limit, 0)
        return self._rid

    def turn(self) -> None:
        """One transaction; everybody is told."""
        for routing, operations in self.engine.turn().items():
            peer = self.peers[routing]
            for operation in operations:
                match operation[0]:
                    case Op.PUBLISH:
                        peer.receipts[operation[1]] = [[abs(seq), seq < 0] for seq in operation[2]]
                    case Op.REFUSED:
                        peer.refusals[operation[1]] = operation[2:]
                    case Op.DELIVER:
                        peer.delivered += map(list, zip(*operation[2:], strict=True))
                    case Op.REPLAY:
                        peer.replayed[operation[1]] = (operation[2], operation[3])

    def taken(self, peer: Peer) -> list[list[Any]]:
        """What was delivered since the last call."""
        delivered, peer.delivered = peer.delivered, []
        return delivered

    def settle_down(self, turns: int = 1_000) -> None:
        """Turns until nothing is due now."""
        for _ in range(turns):
            self.turn()
            due = self.engine.next_due()
            if due is None or due > self.clock.monotonic_s:
                return
        raise AssertionError(f"still something due after {turns} turns")


def envelope(source: str, session: str, message_id: bytes, kind: str = "reply.requested", text: str = "x") -> bytes:
    """An encoded envelope."""
    payload = msgspec.msgpack.encode({"kind": kind, "chat": session, "text": text})
    return encode(Envelope(
        v=VERSION, seq=0, ts_ms=time.time_ns() // 1_000_000, source=source, device_id="", session_id=session,
        message_id=message_id, payload=msgspec.Raw(payload),
    ))
