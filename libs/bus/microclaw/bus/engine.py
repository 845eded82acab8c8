"""The broker without its sockets: operations of clients in, operations for clients out, one journal transaction a turn.

The server hands over everything it has drained from the sockets, then calls `turn`: one transaction, one fsync for all
of it, then the receipts, then the deliveries. Nothing is answered before it is on disk.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from microclaw.bus.ballast import Ballast
from microclaw.bus.blob_calls import BlobCalls
from microclaw.bus.blobs import BlobStore
from microclaw.bus.calls import BROKER, MYSELF, Call, Client, Refusal
from microclaw.bus.delivering import Delivering
from microclaw.bus.envelope import NAME_CHARS_MAX, VERSION, Envelope, encode
from microclaw.bus.group import Group
from microclaw.bus.intake import Intake, check_counts, check_texts
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NoSpace
from microclaw.bus.leases import Subscriber, Wanted
from microclaw.bus.replays import Replays
from microclaw.bus.requests import Requests
from microclaw.bus.room import NO_SPACE_RETRY_MS, Room
from microclaw.bus.settling import save
from microclaw.bus.statistics import Statistics
from microclaw.bus.storing import Storage
from microclaw.bus.upkeep import Upkeep
from microclaw.bus.wire import PROTOCOL, Op
from microclaw.core.ids import new_id
from microclaw.core.rights import Rights

#: For so long after a publish was stored, acks that cause nothing wait for the next publish to share its fsync: while a
#: disk is busy with an ack, the publisher that comes next waits for it.
ACK_LINGER_S = 0.001

#: Refusals kept for the audit between two turns; a flood of them is only counted in the log.
AUDITS_MAX = 100
#: What is said of why somebody may not do something: it may name what they tried, which may be of any length.
WHY_CHARS_MAX = 500
#: What tells two clients of one name apart.
INSTANCE_BYTES_MAX = 64

#: What goes out most, as plain numbers: an IntEnum is encoded ten times as slowly.
PUBLISHED, PUBLISHED_EACH = int(Op.PUBLISH), int(Op.PUBLISH_EACH)

log = logging.getLogger("microclaw.broker")


class Own(Protocol):
    """Answers requests to the broker itself."""

    def __call__(self, body: bytes, *, may_administer: bool) -> msgspec.Struct: ...


class Engine:
    """The broker's whole state. Give it clocks and a journal; it opens no socket and no thread."""

    def __init__(
        self, journal: Journal, *, monotonic: Callable[[], float], wall_ms: Callable[[], int], retention_ms: int,
        rights: Callable[[str, int], Rights | str], ballast: Ballast | None = None, blobs: BlobStore | None = None,
    ) -> None:
        """`rights(name, pid)` says what a client may do, or why it is nobody. Without `ballast` a full disk is only
        noticed, not provided for."""
        self.journal = journal
        self.clients: dict[bytes, Client] = {}
        self.groups: dict[str, Group] = {}
        self.commits = 0
        #: Where large bodies are kept; None = nowhere.
        self.blobs = blobs
        self.statistics = Statistics()
        #: Answers requests to the broker itself.
        self.own: Own | None = None
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._rights = rights
        self._out: dict[bytes, list[list[Any]]] = defaultdict(list)
        self._calls: list[Call] = []
        self._audits: list[bytes] = []
        self.storage = Storage(journal)
        self._delivering = Delivering(self.storage, self._say)
        self._replays = Replays(journal, self.storage, self._say, lambda session: self.upkeep.fold(session))
        self._requests = Requests(self._say)
        #: Questions to the broker itself: answered after the commit, so that who asks sees what it just did.
        self._asked_of_me: list[tuple[Client, int, bytes]] = []
        #: Acks alone are not brought to the disk before this moment (monotonic seconds).
        self._settle_at = 0.0
        self._room = Room(ballast, monotonic)
        self._intake = Intake(blobs, self.denied)
        blob_calls = BlobCalls(blobs, self._say)
        #: What is done beside the traffic.
        self.upkeep = Upkeep(
            journal, self.storage, self.groups, self._room, blobs, wall_ms=wall_ms, retention_ms=retention_ms,
        )
        self._handlers: dict[int, Callable[..., None]] = {
            Op.PUBLISH: self._on_publish, Op.PUBLISH_EACH: self._on_publish_each, Op.ACK: self._on_ack,
            Op.NACK: self._on_nack, Op.TERM: self._on_term, Op.PROGRESS: self._on_progress,
            Op.SUBSCRIBE: self._on_subscribe, Op.UNSUBSCRIBE: self._on_unsubscribe, Op.REPLAY: self._on_replay,
            Op.SEEK: self._on_seek,
            Op.REQUEST: self._on_request, Op.ANSWER: self._requests.answer, Op.SERVE: self._on_serve,
            Op.PING: self._on_ping, Op.BLOB_PUT: blob_calls.put, Op.BLOB_GET: blob_calls.get,
        }
        self._load_groups()

    # --- groups -----------------------------------------------------------------------------------------------------

    def _load_groups(self) -> None:
        for no, name, floor, spec in self.journal.groups():
            group = Group(no, name, floor, msgspec.msgpack.decode(spec, type=Wanted))
            parked = []
            for item in self.journal.parked(no):
                row = self.journal.row(item.offset)
                if row is not None:
                    parked.append((item, row.session))
            group.restore(self.journal.settled(no), parked, self._monotonic(), self._wall_ms())
            self.groups[name] = group

    # --- what clients say -------------------------------------------------------------------------------------------

    def hello(self, routing: bytes, operation: list[Any], pid: int) -> Client | None:
        """A client introduces itself. None = refused (and told so)."""
        _, protocol, name, instance = operation
        if not isinstance(instance, bytes) or len(instance) > INSTANCE_BYTES_MAX:
            raise TypeError("an instance is a few bytes")
        if protocol != PROTOCOL:
            self._refuse(routing, 0, "version", f"protocol {protocol} is unknown here, this broker speaks {PROTOCOL}")
            return None
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX or name == BROKER:
            self._refuse(routing, 0, "denied", "a client needs a name of its own")
            return None
        rights = self._rights(name, pid)
        if isinstance(rights, str):
            self.denied(name, "connect", rights)
            self._refuse(routing, 0, "denied", rights)
            return None
        for other in list(self.clients.values()):
            if other.instance == instance:
                self.gone(other.routing, clean=False)
        client = Client(routing, name, instance, pid, rights=rights)
        self.clients[routing] = client
        self._out[routing].append([Op.HELLO, PROTOCOL, self.journal.epoch])
        return client

    def gone(self, routing: bytes, *, clean: bool) -> None:
        """A client went away."""
        client = self.clients.pop(routing, None)
        if client is None:
            return
        for sid in list(client.subscribers):
            self._unsubscribe(client, sid, clean=clean)
        if self.blobs is not None:
            self.blobs.gone(client.instance)
        self._replays.gone(client)
        self._requests.gone(client)
        self._out.pop(routing, None)

    def receive(self, client: Client, operation: list[Any]) -> None:
        """One operation. What can't be met is answered with a refusal; garbage raises ValueError, TypeError or
        LookupError."""
        handler = self._handlers.get(operation[0])
        if handler is None:
            raise ValueError(f"unknown operation {operation[0]!r}")
        client.unread_bytes = 0
        handler(client, *operation[1:])

    def _on_ack(self, client: Client, rid: int, group: str, offsets: list[int], bodies: list[bytes]) -> None:
        check_counts(rid)
        found = self.groups.get(group)
        if found is not None and not client.may_use(found):
            self._deny(client, rid, "settle", f"{client.name} has nothing to do with group {group}")
        elif bodies:
            self._publish(client, rid, bodies, found, tuple(offsets))
        else:
            check_counts(*offsets)
            self._calls.append(Call(client, rid, [], found, tuple(offsets)))

    def _held_by(self, client: Client, group: str, offset: int) -> Group | None:
        """The group, unless another client has been given this meanwhile: then only an ack counts, which is true
        whoever says it."""
        found = self.groups.get(group)
        if found is None or not client.may_use(found):
            return None
        lease = found.leases.get(offset)
        return found if lease is None or lease.subscriber.client == client.routing else None

    def _on_nack(self, client: Client, group: str, offset: int, delay_ms: int | None, error: str) -> None:
        check_counts(offset)
        check_texts(error)
        delay_ms = int(delay_ms) if delay_ms is not None else None
        if found := self._held_by(client, group, offset):
            found.nack(offset, delay_ms, error, self._monotonic(), self._wall_ms())

    def _on_term(self, client: Client, group: str, offset: int, reason: str) -> None:
        check_counts(offset)
        check_texts(reason)
        if found := self._held_by(client, group, offset):
            found.term(offset, reason)

    def _on_progress(self, client: Client, group: str, offset: int) -> None:
        check_counts(offset)
        if found := self._held_by(client, group, offset):
            found.progress(offset, self._monotonic())

    def _on_unsubscribe(self, client: Client, sid: int) -> None:
        self._unsubscribe(client, sid, clean=True)

    def _on_replay(self, client: Client, rid: int, session: str, after: int, limit: int, wait_ms: int) -> None:
        check_counts(rid, after, limit, wait_ms)
        check_texts(session)
        if session.startswith(client.rights.replay):
            self._replays.ask(client, rid, session, after, limit, wait_ms, self._monotonic())
        else:
            self._deny(client, rid, "replay", f"{client.name} may not replay {session}")

    def _on_seek(self, client: Client, rid: int, session: str, since_ms: int, last: int) -> None:
        check_counts(rid, since_ms, last)
        check_texts(session)
        if session.startswith(client.rights.replay):
            self._replays.seek(client, rid, session, since_ms, last)
        else:
            self._deny(client, rid, "replay", f"{client.name} may not replay {session}")

    def _on_request(self, client: Client, rid: int, service: str, timeout_ms: int, body: bytes) -> None:
        check_counts(rid)
        check_texts(service)
        if not isinstance(body, bytes):
            raise TypeError("a question is bytes")
        if service == BROKER:
            self._asked_of_me.append((client, rid, body))
        elif service not in client.rights.ask and "*" not in client.rights.ask:
            self._deny(client, rid, "ask", f"{client.name} may not ask {service}")
        else:
            deadline = self._monotonic() + int(timeout_ms) / 1000
            try:
                self._requests.ask(client, rid, service, deadline, body, reversed(self.clients.values()))
            except Refusal as refusal:
                self._refuse(client.routing, rid, refusal.code, refusal.why, 100)

    def _on_serve(self, client: Client) -> None:
        client.serves = True

    def _on_ping(self, client: Client) -> None:
        self._out[client.routing].append([Op.PING])

    def _say(self, routing: bytes, operation: list[Any]) -> None:
        self._out[routing].append(operation)

    def _deny(self, client: Client, rid: int, action: str, why: str) -> None:
        why = why[:WHY_CHARS_MAX]
        self.denied(client.name, action, why)
        self._refuse(client.routing, rid, "denied", why)

    def _refuse(self, routing: bytes, rid: int, code: str, why: str, retry_after_ms: int = 0) -> None:
        self._out[routing].append([Op.REFUSED, rid, code, why, retry_after_ms])

    # --- publishing -------------------------------------------------------------------------------------------------

    def _on_publish(self, client: Client, rid: int, items: list[Any]) -> None:
        self._publish(client, rid, items)

    def _publish(
        self, client: Client, rid: int, items: list[Any], group: Group | None = None, offsets: tuple[int, ...] = ()
    ) -> None:
        check_counts(rid, *offsets)
        if not self._room.for_publishers():
            self._refuse(client.routing, rid, "no_space", str(NoSpace()), NO_SPACE_RETRY_MS)
            return
        try:
            rows = self._intake.rows(client, items)
        except Refusal as refusal:
            self._refuse(client.routing, rid, refusal.code, refusal.why)
        else:
            self._calls.append(Call(client, rid, rows, group, offsets))

    def _on_publish_each(self, client: Client, rid: int, items: list[Any]) -> None:
        check_counts(rid)
        if not self._room.for_publishers():
            for n in range(len(items)):
                self._refuse(client.routing, rid + n, "no_space", str(NoSpace()), NO_SPACE_RETRY_MS)
            return
        rows = self._intake.each(client, items)
        if rows is not None:
            self._calls.append(Call(client, rid, rows, each=True))
            return
        rows = []
        for n, item in enumerate(items):
            try:
                rows.append(self._intake.row(client, item))
            except Refusal as refusal:
                self._refuse(client.routing, rid + n, refusal.code, refusal.why)
                if rows:
                    self._calls.append(Call(client, rid + n - len(rows), rows, each=True))
                    rows = []
        if rows:
            self._calls.append(Call(client, rid + len(items) - len(rows), rows, each=True))

    def denied(self, name: str, action: str, why: str) -> None:
        """Somebody tried what they may not: an audit envelope, written with the next turn."""
        why = why[:WHY_CHARS_MAX]
        log.warning("denied", extra={"client": name, "action": action, "why": why})
        if len(self._audits) < AUDITS_MAX:
            now_ms = self._wall_ms()
            entry = {"kind": "audit.entry", "actor": name, "action": f"bus.{action}", "subject": "", "outcome": "deny",
                     "detail": why}
            self._audits.append(encode(Envelope(
                v=VERSION, seq=0, ts_ms=now_ms, source=BROKER, device_id="", session_id="audit",
                message_id=new_id(now_ms), payload=msgspec.Raw(msgspec.msgpack.encode(entry)),
            )))

    def _publish_audits(self) -> None:
        if self._audits and self._room.for_publishers():
            bodies, self._audits = self._audits, []
            self._publish(MYSELF, 0, bodies)

    # --- the turn ---------------------------------------------------------------------------------------------------

    def turn(self) -> dict[bytes, list[list[Any]]]:
        """Commit what came in, and return what is to be said to each client (by routing id).

        :raises sqlite3.Error: the disk does not keep its promises: the process must end without answering.
        """
        now, now_ms = self._monotonic(), self._wall_ms()
        for group in self.groups.values():
            group.wake(now, now_ms)
            group.park_laggards()
        self._publish_audits()
        self._commit(now_ms)
        self._answer_own()
        self._delivering.turn(self.groups.values(), now, now_ms)
        self._replays.turn(now)
        self._requests.turn(now)
        out, self._out = self._out, defaultdict(list)
        out.pop(b"", None)
        return out

    def _commit(self, now_ms: int) -> None:
        calls = self._calls
        publishing = any(call.rows for call in calls)
        if not publishing and not self._must_settle():
            return
        began = self._monotonic()
        try:
            self.journal.begin()
            if publishing:
                self.storage.store(calls, now_ms)
            else:
                for call in calls:
                    call.answer = []
            self._settle(calls)
            saved = save(self.journal, self.storage, self.groups.values(), now_ms, tell=not self._room.none)
            self.journal.commit()
        except NoSpace as error:
            self._undo(calls, str(error))
            return
        self._calls = []
        if publishing:
            self._room.written()
            self._settle_at = self._monotonic() + ACK_LINGER_S
        self.commits += 1
        self.statistics.committed((self._monotonic() - began) * 1000, sum(len(call.rows) for call in calls))
        for group, durable in saved:
            group.saved(durable)
        for call in calls:
            if call.answer is not None:
                op = PUBLISHED_EACH if call.each else PUBLISHED
                self._out[call.client.routing].append([op, call.rid, call.answer])
            for rid, refusal in call.refusals.items():
                self._refuse(call.client.routing, rid, refusal.code, refusal.why)

    def _settle(self, calls: list[Call]) -> None:
        for call in calls:
            if call.answer is not None and call.group is not None:
                call.group.ack(call.offsets, self.storage.last_offset)

    def _must_settle(self) -> bool:
        """There is something to commit although nothing is published, and it has waited long enough."""
        if not self._calls and not any(group.dirty for group in self.groups.values()):
            return False
        return self._monotonic() >= self._settle_at

    def _undo(self, calls: list[Call], why: str) -> None:
        """The transaction failed: what was to be stored was not, and what was acknowledged is still out."""
        self.journal.rollback()
        self._calls = []
        self._room.full()
        self.storage.reload()
        for group in self.groups.values():
            group.undone()
        self._audits += [row.body for call in calls if call.client is MYSELF for row in call.rows]
        for call in calls:
            for n in range(len(call.rows) if call.each else 1):
                self._refuse(call.client.routing, call.rid + n, "no_space", why, NO_SPACE_RETRY_MS)

    # --- delivering -------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `turn` is needed without anything coming in, monotonic seconds; None = never."""
        settling = bool(self._calls)
        for group in self.groups.values():
            if group.can_give or (group.subscribers and group.next <= self.storage.last_offset and group.room):
                return self._monotonic()
            settling = settling or group.dirty
        if self._audits and not self._room.none:
            return self._monotonic()
        times = [due for group in self.groups.values() if (due := group.next_due()) is not None]
        if settling:
            times.append(self._settle_at)
        times += self._replays.deadlines()
        times += self._requests.deadlines()
        return min(times, default=None)

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def _on_subscribe(
        self, client: Client, sid: int, name: str, kinds: list[str], sessions: str, max_in_flight: int,
        ack_wait_ms: int, max_deliver: int, backoff: list[int], start: str, in_order: bool,
    ) -> None:
        check_counts(sid)
        check_texts(name, sessions, *kinds)
        if not 0 < len(name) <= NAME_CHARS_MAX or int(ack_wait_ms) < 1 or sid in client.subscribers:
            raise ValueError("a group has a name and a time to wait, a subscription an id of its own")
        for pattern in kinds:
            if not client.may_read(pattern):
                self._deny(client, sid, "subscribe", f"{client.name} may not read {pattern}")
                return
        group = self.groups.get(name)
        if group is not None and not client.may_use(group):
            self._deny(client, sid, "subscribe", f"{client.name} has nothing to do with group {name}")
            return
        owner = group.wanted.owner if group is not None else ""
        wanted = Wanted(tuple(kinds), sessions, int(ack_wait_ms) / 1000, int(max_deliver),
                        tuple(int(pause) for pause in backoff), owner or client.name, bool(in_order))
        if group is None or wanted != group.wanted:
            spec = msgspec.msgpack.encode(wanted)
            first = self.journal.first_offset()
            floor = self.storage.last_offset if start == "new" or not first else first - 1
            try:
                self.journal.begin()
                no = self.journal.save_group(name, floor, spec)
                self.journal.commit()
            except NoSpace as error:
                self._room.full()
                self._refuse(client.routing, sid, "no_space", str(error), NO_SPACE_RETRY_MS)
                return
            if group is None:
                group = self.groups[name] = Group(no, name, floor, wanted)
            else:
                group.want(wanted)
        subscriber = Subscriber(client.routing, sid, max(1, int(max_in_flight)))
        group.subscribers.append(subscriber)
        client.subscribers[sid] = (group, subscriber)
        self._out[client.routing].append([Op.SUBSCRIBE, sid])

    def _unsubscribe(self, client: Client, sid: int, *, clean: bool) -> None:
        if found := client.subscribers.pop(sid, None):
            # What it acknowledged before it went is settled before anything is given to others.
            self._settle_at = 0.0
            group, subscriber = found
            group.leave(subscriber, self._monotonic(), self._wall_ms(), clean=clean)

    def _answer_own(self) -> None:
        questions, self._asked_of_me = self._asked_of_me, []
        for client, rid, body in questions:
            if self.own is None:
                self._refuse(client.routing, rid, "no_responder", "this broker answers nothing of itself")
                continue
            answer = self.own(body, may_administer=client.rights.admin)
            self._out[client.routing].append([Op.REQUEST, rid, msgspec.msgpack.encode(answer)])

    @property
    def no_space(self) -> bool:
        """The last commit failed because the disk is full."""
        return self._room.none

    @property
    def last_offset(self) -> int:
        """The newest offset given."""
        return self.storage.last_offset

    def facts(self) -> dict[str, int | str]:
        """For `status` and `bus info`."""
        return {
            "last_offset": self.storage.last_offset, "published": self.storage.published,
            "duplicates": self.storage.duplicates,
            "commits": self.commits, "clients": len(self.clients), "no_space": int(self._room.none),
            "in_flight": sum(len(group.leases) for group in self.groups.values()),
            "dead": sum(len(self.journal.dead_offsets(group.no)) for group in self.groups.values()),
        }
