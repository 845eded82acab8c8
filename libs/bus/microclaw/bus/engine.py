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
from microclaw.bus.blobs import BlobStore
from microclaw.bus.calls import Call, Client, Refusal
from microclaw.bus.envelope import VERSION, Envelope, decode, encode, kind_of
from microclaw.bus.errors import EnvelopeError, EnvelopeTooBig, Refused
from microclaw.bus.group import Group, Subscriber, subject_matcher
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow, NoSpace, Row, digest_of
from microclaw.bus.replays import Replays
from microclaw.bus.requests import Requests
from microclaw.bus.statistics import Statistics
from microclaw.bus.storing import Storage
from microclaw.bus.wire import PROTOCOL, Op
from microclaw.core.ids import new_id
from microclaw.core.rights import Rights

#: Messages looked at for one group in one turn.
SCAN_MAX = 2_000
#: Bytes of one delivery frame, about.
BATCH_BYTES_MAX = 1 << 20
#: Messages in one publish call.
CALL_MESSAGES_MAX = 1_000
#: Expired messages deleted in one turn: bounds how long a publisher waits behind it.
EXPIRE_ROWS_MAX = 200

#: For so long after a publish was stored, acks that cause nothing wait for the next publish to share its fsync: while a
#: disk is busy with an ack, the publisher that comes next waits for it.
ACK_LINGER_S = 0.001

#: A publisher that was refused for want of room comes back after this.
NO_SPACE_RETRY_MS = 1_000
#: Refusals kept for the audit between two turns; a flood of them is only counted in the log.
AUDITS_MAX = 100

#: `Op.PUBLISH` as a plain number: it goes out for every message, and an IntEnum is encoded ten times as slowly.
PUBLISHED = int(Op.PUBLISH)

#: The broker's own name as a responder.
BROKER = "broker"

log = logging.getLogger("microclaw.broker")


class Own(Protocol):
    """Answers requests to the broker itself."""

    def __call__(self, body: bytes, *, may_administer: bool) -> msgspec.Struct: ...


def _is_count(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 63


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
        self._retention_ms = retention_ms
        self._rights = rights
        self._out: dict[bytes, list[list[Any]]] = defaultdict(list)
        self._calls: list[Call] = []
        self._audits: list[bytes] = []
        self._myself = Client(b"", BROKER, b"", 0, rights=Rights(publish=("audit.entry",)))
        self.storage = Storage(journal)
        self._replays = Replays(journal, self.storage, self._say)
        self._requests = Requests(self._say)
        #: Questions to the broker itself: answered after the commit, so that who asks sees what it just did.
        self._asked_of_me: list[tuple[Client, int, bytes]] = []
        #: Acks alone are not brought to the disk before this moment (monotonic seconds).
        self._settle_at = 0.0
        self._ballast = ballast
        self._no_space = ballast is not None and not ballast.load()
        self._look_for_room_at = 0.0
        self._handlers: dict[int, Callable[..., None]] = {
            Op.PUBLISH: self._on_publish, Op.ACK: self._on_ack, Op.NACK: self._on_nack, Op.TERM: self._on_term,
            Op.PROGRESS: self._on_progress, Op.SUBSCRIBE: self._on_subscribe, Op.UNSUBSCRIBE: self._on_unsubscribe,
            Op.REPLAY: self._on_replay, Op.REQUEST: self._on_request, Op.ANSWER: self._requests.answer,
            Op.SERVE: self._on_serve, Op.PING: self._on_ping, Op.BLOB_PUT: self._on_blob_put,
            Op.BLOB_GET: self._on_blob_get,
        }
        self._load_groups()

    # --- groups -----------------------------------------------------------------------------------------------------

    def _load_groups(self) -> None:
        before = self.groups
        self.groups = {}
        for no, name, floor, spec in self.journal.groups():
            kinds, sessions, ack_wait_s, max_deliver, backoff = msgspec.msgpack.decode(spec)
            group = Group(
                no, name, floor=floor, kinds=tuple(kinds), sessions=sessions, ack_wait_s=ack_wait_s,
                max_deliver=max_deliver, backoff_ms=tuple(backoff),
            )
            parked = []
            for item in self.journal.parked(no):
                row = self.journal.row(item.offset)
                if row is not None:
                    parked.append((item, row.session))
            group.restore(self.journal.settled(no), parked, self._monotonic(), self._wall_ms())
            if name in before:
                group.subscribers = before[name].subscribers
                for subscriber in group.subscribers:
                    subscriber.in_flight = 0
            self.groups[name] = group
        for client in self.clients.values():
            client.subscribers = {
                sid: (self.groups[group.name], subscriber) for sid, (group, subscriber) in client.subscribers.items()
            }

    # --- what clients say -------------------------------------------------------------------------------------------

    def hello(self, routing: bytes, operation: list[Any], pid: int) -> Client | None:
        """A client introduces itself. None = refused (and told so)."""
        _, protocol, name, instance = operation
        if protocol != PROTOCOL:
            self._refuse(routing, 0, "version", f"protocol {protocol} is unknown here, this broker speaks {PROTOCOL}")
            return None
        if not isinstance(name, str) or not name or len(name) > 200 or name == BROKER:
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
        if bodies:
            self._on_publish(client, rid, bodies, self.groups.get(group), tuple(offsets))
        else:
            self._calls.append(Call(client, rid, [], [], self.groups.get(group), tuple(offsets)))

    def _on_nack(self, _client: Client, group: str, offset: int, delay_ms: int | None, error: str) -> None:
        if found := self.groups.get(group):
            found.nack(offset, delay_ms, error, self._monotonic(), self._wall_ms())

    def _on_term(self, _client: Client, group: str, offset: int, reason: str) -> None:
        if found := self.groups.get(group):
            found.term(offset, reason)

    def _on_progress(self, _client: Client, group: str, offset: int) -> None:
        if found := self.groups.get(group):
            found.progress(offset, self._monotonic())

    def _on_unsubscribe(self, client: Client, sid: int) -> None:
        self._unsubscribe(client, sid, clean=True)

    def _on_replay(self, client: Client, rid: int, session: str, after: int, limit: int, wait_ms: int) -> None:
        if not (isinstance(session, str) and all(_is_count(n) for n in (after, limit, wait_ms))):
            raise TypeError("a replay asks for a session, a place, a number and a time")
        if session.startswith(client.rights.replay):
            self._replays.ask(client, rid, session, after, limit, wait_ms, self._monotonic())
        else:
            self._deny(client, rid, "replay", f"{client.name} may not replay {session}")

    def _on_request(self, client: Client, rid: int, service: str, timeout_ms: int, body: bytes) -> None:
        if service == BROKER:
            self._asked_of_me.append((client, rid, body))
        elif service not in client.rights.ask and "*" not in client.rights.ask:
            self._deny(client, rid, "ask", f"{client.name} may not ask {service}")
        else:
            deadline = self._monotonic() + timeout_ms / 1000
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
        self.denied(client.name, action, why)
        self._refuse(client.routing, rid, "denied", why)

    def _refuse(self, routing: bytes, rid: int, code: str, why: str, retry_after_ms: int = 0) -> None:
        self._out[routing].append([Op.REFUSED, rid, code, why, retry_after_ms])

    # --- publishing -------------------------------------------------------------------------------------------------

    def _on_publish(
        self, client: Client, rid: int, items: list[Any], group: Group | None = None, offsets: tuple[int, ...] = ()
    ) -> None:
        if self._no_space and not self._room():
            self._refuse(client.routing, rid, "no_space", str(NoSpace()), NO_SPACE_RETRY_MS)
            return
        try:
            if len(items) > CALL_MESSAGES_MAX:
                raise Refusal("too_big", f"{len(items)} messages in one call, the limit is {CALL_MESSAGES_MAX}")
            rows, names = [], []
            for item in items:
                body, not_before, expires, expected, *named = item if isinstance(item, list) else (item, 0, 0, None)
                if isinstance(item, list) and not all(_is_count(n) for n in (not_before, expires, expected or 0)):
                    raise TypeError("times and places are whole numbers")
                envelope = decode(body)
                kind = kind_of(envelope.payload)
                self._check_rights(client, envelope, kind)
                digest = digest_of(envelope.session_id, envelope.source, envelope.payload)
                rows.append(NewRow(
                    0, envelope.message_id, 0, 0, 0, digest, body, not_before or None, expires or None,
                    self._kept(named[0]) if named else (),
                ))
                names.append((envelope.session_id, kind, expected))
        except EnvelopeTooBig as error:
            self._refuse(client.routing, rid, "too_big", str(error))
        except Refused as error:
            self._refuse(client.routing, rid, error.code, error.why)
        except EnvelopeError as error:
            self._refuse(client.routing, rid, "version" if error.field == "v" else "malformed", str(error))
        except Refusal as refusal:
            if refusal.code == "denied":
                self.denied(client.name, "publish", refusal.why)
            self._refuse(client.routing, rid, refusal.code, refusal.why)
        else:
            self._calls.append(Call(client, rid, rows, names, group, offsets))

    def _kept(self, handles: list[str]) -> tuple[str, ...]:
        """The blobs that a message names; all must be here."""
        for handle in handles:
            if self.blobs is None or not self.blobs.has(handle):
                raise Refusal("malformed", f"the blob {handle} is not here: put it first")
        return tuple(dict.fromkeys(handles))

    def _on_blob_put(self, client: Client, rid: int, handle: str, start: int, part: bytes, last: bool) -> None:
        try:
            if self.blobs is None:
                raise Refused("denied", "this broker keeps no blobs")
            done = self.blobs.put(client.instance, handle, start, part, last=last)
        except Refused as refused:
            self._refuse(client.routing, rid, refused.code, refused.why)
        except OSError as error:
            self._refuse(client.routing, rid, "no_space", f"the blob can't be written: {error}", NO_SPACE_RETRY_MS)
        else:
            self._say(client.routing, [Op.BLOB_PUT, rid, done])

    def _on_blob_get(self, client: Client, rid: int, handle: str, start: int) -> None:
        try:
            if self.blobs is None:
                raise Refused("denied", "this broker keeps no blobs")
            part, size = self.blobs.get(handle, start)
        except Refused as refused:
            self._refuse(client.routing, rid, refused.code, refused.why)
        else:
            self._say(client.routing, [Op.BLOB_GET, rid, part, size])

    def _check_rights(self, client: Client, envelope: Envelope, kind: str) -> None:
        if envelope.source != client.name:
            raise Refusal("denied", f"{client.name} may not publish as {envelope.source}")
        if kind not in client.may_publish:
            if not subject_matcher(client.rights.publish)(kind):
                raise Refusal("denied", f"{client.name} may not publish {kind}")
            client.may_publish.add(kind)
        if not envelope.session_id.startswith(client.rights.sessions):
            raise Refusal("denied", f"{client.name} may not publish in {envelope.session_id}")

    def denied(self, name: str, action: str, why: str) -> None:
        """Somebody tried what they may not: an audit envelope, written with the next turn."""
        log.warning("denied", extra={"client": name, "action": action, "why": why})
        if len(self._audits) < AUDITS_MAX:
            now_ms = self._wall_ms()
            entry = {"kind": "audit.entry", "actor": name, "action": f"bus.{action}", "subject": "", "outcome": "deny",
                     "detail": why}
            self._audits.append(encode(Envelope(
                v=VERSION, seq=0, ts_ms=now_ms, source=BROKER, device_id="", session_id="audit",
                message_id=new_id(now_ms), payload=msgspec.Raw(msgspec.msgpack.encode(entry)),
            )))

    def _room(self) -> bool:
        """Whether there is room again after the disk was full."""
        if self._ballast is None:
            return True
        now = self._monotonic()
        if now < self._look_for_room_at:
            return False
        self._look_for_room_at = now + NO_SPACE_RETRY_MS / 2000
        self._no_space = not self._ballast.load()
        if not self._no_space:
            log.info("there is room on the disk again")
        return not self._no_space

    def _full(self) -> None:
        """The disk is full: publishers wait, the reserve is for what makes room."""
        if not self._no_space:
            log.error("the disk is full: nothing is accepted until there is room")
        self._no_space = True
        if self._ballast is not None:
            self._ballast.drop()

    def _publish_audits(self) -> None:
        if self._audits and (not self._no_space or self._room()):
            bodies, self._audits = self._audits, []
            self._on_publish(self._myself, 0, bodies)

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
        self._dispatch(now, now_ms)
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
            dirty = [group for group in self.groups.values() if group.dirty]
            for group in dirty:
                self._save(group, now_ms)
            self.journal.commit()
        except NoSpace as error:
            self._undo(calls, str(error))
            return
        self._calls = []
        if publishing and self._ballast is None:
            self._no_space = False
        self.commits += 1
        if publishing:
            self._settle_at = self._monotonic() + ACK_LINGER_S
        self.statistics.committed((self._monotonic() - began) * 1000, sum(len(call.rows) for call in calls))
        for group in dirty:
            group.saved()
        out = self._out
        for call in calls:
            if call.answer is not None:
                out[call.client.routing].append([PUBLISHED, call.rid, call.answer])
            elif call.refusal is not None:
                self._refuse(call.client.routing, call.rid, call.refusal.code, call.refusal.why)

    def _settle(self, calls: list[Call]) -> None:
        for call in calls:
            if call.answer is not None and call.group is not None:
                for offset in call.offsets:
                    call.group.ack(offset, self.storage.last_offset)

    def _must_settle(self) -> bool:
        """There is something to commit although nothing is published, and it has waited long enough."""
        if not self._calls and not any(group.dirty for group in self.groups.values()):
            return False
        return self._monotonic() >= self._settle_at

    def _undo(self, calls: list[Call], why: str) -> None:
        """The transaction failed: everything in memory goes back to what is on disk."""
        self.journal.rollback()
        self._calls = []
        self._full()
        self.storage.reload()
        self._load_groups()
        for call in calls:
            self._refuse(call.client.routing, call.rid, "no_space", why, NO_SPACE_RETRY_MS)

    def _save(self, group: Group, now_ms: int) -> None:
        changes = group.changes
        floor, beyond, sweep = group.durable()
        self.journal.settle(group.no, floor, beyond, sweep=sweep)
        for parked in changes.parked.values():
            self.journal.park(group.no, parked)
        for offset in changes.unparked:
            self.journal.unpark(group.no, offset)
        for parked, reason in changes.buried:
            self.journal.bury(group.no, parked, reason, now_ms)

    # --- delivering -------------------------------------------------------------------------------------------------

    def _scan(self, group: Group, now: float, now_ms: int) -> None:
        """Let the group look at what is new."""
        budget = min(SCAN_MAX, group.room)
        if budget <= 0:
            return
        names = self.storage.kind_names()
        wanted: dict[int, bool] = {}
        for row in self.storage.since(group.next, budget):
            matches = wanted.get(row.kind)
            if matches is None:
                matches = wanted[row.kind] = group.matches(names[row.kind])
            if matches and group.sessions:
                matches = self.storage.session_name(row.session).startswith(group.sessions)
            due_ms = row.not_before_ms or 0
            if matches and due_ms > now_ms:
                group.offer(row.offset, row.session, True, due=now + (due_ms - now_ms) / 1000, due_ms=due_ms)
            else:
                group.offer(row.offset, row.session, matches)

    def _dispatch(self, now: float, now_ms: int) -> None:
        for group in self.groups.values():
            if not group.subscribers:
                continue
            if group.next <= self.storage.last_offset:
                self._scan(group, now, now_ms)
            if not group.can_give:
                continue
            batches: dict[tuple[bytes, int], list[list[Any]]] = defaultdict(list)
            size = 0
            while size < BATCH_BYTES_MAX and (given := group.give(now)):
                offset, subscriber, count = given
                row = self.storage.row(offset)
                if row is None:
                    group.term(offset, "no longer in the journal")
                    continue
                if isinstance(row, Row) and row.damaged:
                    log.error("a message is damaged on disk", extra={"offset": offset, "group": group.name})
                    group.term(offset, "damaged on disk: its checksum does not match")
                    continue
                if row.expires_ms is not None and row.expires_ms <= now_ms:
                    group.expire(offset)
                    continue
                size += len(row.body)
                batches[subscriber.client, subscriber.sid].append([offset, row.seq, count, row.body])
            for (routing, sid), batch in batches.items():
                self._out[routing].append([Op.DELIVER, sid, batch])

    def next_due(self) -> float | None:
        """When `turn` is needed without anything coming in, monotonic seconds; None = never."""
        settling = bool(self._calls)
        for group in self.groups.values():
            if group.can_give or (group.subscribers and group.next <= self.storage.last_offset and group.room):
                return self._monotonic()
            settling = settling or group.dirty
        if self._audits and not self._no_space:
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
        ack_wait_ms: int, max_deliver: int, backoff: list[int], start: str,
    ) -> None:
        readable = subject_matcher(client.rights.read)
        for pattern in kinds:
            # A pattern is allowed when an allowed pattern covers it: `*` in it is a segment like any other.
            if not readable(pattern) or (">" in pattern and ">" not in client.rights.read):
                self._deny(client, sid, "subscribe", f"{client.name} may not read {pattern}")
                return
        wanted = (tuple(map(str, kinds)), str(sessions), int(ack_wait_ms) / 1000, int(max_deliver),
                  tuple(int(pause) for pause in backoff))
        group = self.groups.get(name)
        if group is None or wanted != group.wanted:
            spec = msgspec.msgpack.encode(wanted)
            floor = self.storage.last_offset if start == "new" else max(self.journal.first_offset() - 1, 0)
            try:
                self.journal.begin()
                no = self.journal.save_group(name, floor, spec)
                self.journal.commit()
            except NoSpace as error:
                self._full()
                self._refuse(client.routing, sid, "no_space", str(error), NO_SPACE_RETRY_MS)
                return
            if group is None:
                group = self.groups[name] = Group(
                    no, name, floor=floor, kinds=wanted[0], sessions=wanted[1], ack_wait_s=wanted[2],
                    max_deliver=wanted[3], backoff_ms=wanted[4],
                )
            else:
                group.want(*wanted)
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

    # --- retention --------------------------------------------------------------------------------------------------

    def expire(self) -> int:
        """Delete some of what is older than the retention and done with. Call it now and then; returns how many."""
        floors = [group.floor for group in self.groups.values()]
        floor = min(floors, default=self.storage.last_offset)
        try:
            self.journal.begin()
            gone = self.journal.expire(self._wall_ms() - self._retention_ms, floor, EXPIRE_ROWS_MAX)
            self.journal.commit()
        except NoSpace:
            self._full()
            return 0
        if self.blobs is not None and not gone:
            for handle in self.blobs.old(self._wall_ms() / 1000):
                if not self.journal.refers(handle):
                    self.blobs.delete(handle)
        return gone

    @property
    def no_space(self) -> bool:
        """The last commit failed because the disk is full."""
        return self._no_space

    @property
    def last_offset(self) -> int:
        """The newest offset given."""
        return self.storage.last_offset

    # --- administration ---------------------------------------------------------------------------------------------

    def requeue(self, group: Group, offset: int) -> bool:
        """Deliver a dead letter again, as if never delivered. False = there is none."""
        row = self.journal.row(offset)
        self.journal.begin()
        found = self.journal.exhume(group.no, offset) and row is not None
        if found and row is not None:
            group.revive(offset, row.session)
            self._save(group, self._wall_ms())
        self.journal.commit()
        if found:
            group.saved()
        return found

    def drop_dead(self, group: Group, offset: int) -> bool:
        """Forget a dead letter. False = there is none."""
        self.journal.begin()
        found = self.journal.exhume(group.no, offset)
        if found:
            # Settled it is, and stays: beyond the floor that must still be said.
            self.journal.settle(group.no, group.floor, [offset] if offset > group.floor else [], sweep=False)
        self.journal.commit()
        return found

    def drop_group(self, group: Group) -> None:
        """Forget a consumer group that nobody uses."""
        self.journal.begin()
        self.journal.drop_group(group.no)
        self.journal.commit()
        del self.groups[group.name]

    def facts(self) -> dict[str, int | str]:
        """For `status` and `bus info`."""
        return {
            "last_offset": self.storage.last_offset, "published": self.storage.published,
            "duplicates": self.storage.duplicates,
            "commits": self.commits, "clients": len(self.clients), "no_space": int(self._no_space),
            "in_flight": sum(len(group.leases) for group in self.groups.values()),
            "dead": self.journal.counts()["dead"],
        }
