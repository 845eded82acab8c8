"""The broker without its sockets: operations of clients in, operations for clients out, one journal transaction a turn.

The server hands over everything it has drained from the sockets, then calls `turn`: one transaction, one fsync for all
of it, then the receipts, then the deliveries. Nothing is answered before it is on disk.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from microclaw.bus.ballast import Ballast
from microclaw.bus.envelope import VERSION, Envelope, decode, encode, kind_of
from microclaw.bus.errors import EnvelopeError, EnvelopeTooBig
from microclaw.bus.group import Group, Subscriber, subject_matcher
from microclaw.bus.journal import Damaged, Journal, NewRow, NoSpace, Row, digest_of
from microclaw.bus.statistics import Statistics
from microclaw.bus.wire import PROTOCOL, Op
from microclaw.core.ids import new_id
from microclaw.core.rights import Rights

#: Newest messages kept in memory for delivery: number and bytes.
TAIL_MESSAGES_MAX = 8_000
TAIL_BYTES_MAX = 8 << 20
#: So many more before they are cut: cutting a list moves all of it.
TAIL_SLACK = 1_000
#: Messages looked at for one group in one turn.
SCAN_MAX = 2_000
#: Bytes of one delivery or replay frame, about.
BATCH_BYTES_MAX = 1 << 20
#: Messages in one publish call.
CALL_MESSAGES_MAX = 1_000
#: Messages in one replay answer.
REPLAY_MESSAGES_MAX = 1_000
#: Requests a client may have open.
REQUESTS_MAX = 1_000
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


@dataclass(slots=True, eq=False)
class Client:
    """A connection that said HELLO."""

    routing: bytes
    name: str
    instance: bytes
    pid: int
    subscribers: dict[int, tuple[Group, Subscriber]] = field(default_factory=dict)
    rights: Rights = field(default_factory=Rights)
    serves: bool = False
    requests: int = 0
    #: Kinds it was allowed to publish, so that each is looked up once.
    may_publish: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Call:
    """A publish, alone or with an acknowledgement: all or nothing."""

    client: Client
    rid: int
    rows: list[NewRow]
    #: (session, kind, expected last seq or None) of each row.
    names: list[tuple[str, str, int | None]]
    group: Group | None = None
    offsets: tuple[int, ...] = ()
    answer: list[list[Any]] | None = None


@dataclass(slots=True)
class _Waiting:
    """Somebody replays a session and has seen all of it."""

    client: Client
    rid: int
    session: str
    after: int
    limit: int
    deadline: float


@dataclass(slots=True)
class _Asked:
    client: Client
    rid: int
    responder: Client
    deadline: float


class _Tail:
    """The newest messages, as they were stored: their offsets have no gaps."""

    def __init__(self) -> None:
        self._rows: list[NewRow] = []
        self._bytes = 0

    def clear(self) -> None:
        """Forget them."""
        self._rows.clear()
        self._bytes = 0

    def extend(self, rows: list[NewRow]) -> None:
        """These follow; the oldest go when there are too many."""
        self._rows += rows
        for row in rows:
            self._bytes += len(row.body)
        excess = len(self._rows) - TAIL_MESSAGES_MAX
        if excess > TAIL_SLACK or self._bytes > TAIL_BYTES_MAX:
            gone = 0
            while gone < excess or self._bytes > TAIL_BYTES_MAX:
                self._bytes -= len(self._rows[gone].body)
                gone += 1
            del self._rows[:gone]

    def get(self, offset: int) -> NewRow | None:
        """One of them."""
        place = offset - self._rows[0].offset if self._rows else -1
        return self._rows[place] if 0 <= place < len(self._rows) else None

    def after(self, offset: int, limit: int) -> list[NewRow]:
        """From this offset on; none when it is older than the oldest."""
        place = offset - self._rows[0].offset if self._rows else -1
        return self._rows[place:place + limit] if place >= 0 else []


class Refusal(Exception):
    """A call can't be met."""

    def __init__(self, code: str, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(why)


class Own(Protocol):
    """Answers requests to the broker itself."""

    def __call__(self, body: bytes, *, may_administer: bool) -> msgspec.Struct: ...


class Engine:
    """The broker's whole state. Give it clocks and a journal; it opens no socket and no thread."""

    def __init__(
        self, journal: Journal, *, monotonic: Callable[[], float], wall_ms: Callable[[], int], retention_ms: int,
        rights: Callable[[str, int], Rights | str], ballast: Ballast | None = None,
    ) -> None:
        """`rights(name, pid)` says what a client may do, or why it is nobody. Without `ballast` a full disk is only
        noticed, not provided for."""
        self.journal = journal
        self.clients: dict[bytes, Client] = {}
        self.groups: dict[str, Group] = {}
        self.commits = 0
        self.published = 0
        self.duplicates = 0
        self.statistics = Statistics()
        #: Answers requests to the broker itself.
        self.own: Own | None = None
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._retention_ms = retention_ms
        self._rights = rights
        self._out: dict[bytes, list[list[Any]]] = defaultdict(list)
        self._calls: list[_Call] = []
        self._audits: list[bytes] = []
        self._myself = Client(b"", BROKER, b"", 0, rights=Rights(publish=("audit.entry",)))
        self._waiting: list[_Waiting] = []
        self._asked: dict[int, _Asked] = {}
        #: Unlike any of an earlier broker's: a late answer to that one must not answer another question now.
        self._next_bid = int.from_bytes(os.urandom(6), "big")
        #: Questions to the broker itself: answered after the commit, so that who asks sees what it just did.
        self._asked_of_me: list[tuple[Client, int, bytes]] = []
        self._kinds = journal.kinds()
        self._sessions: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._session_names: dict[int, str] = {}
        self._last_offset = journal.last_offset()
        self._tail = _Tail()
        #: Acks alone are not brought to the disk before this moment (monotonic seconds).
        self._settle_at = 0.0
        self._ballast = ballast
        self._no_space = ballast is not None and not ballast.load()
        self._look_for_room_at = 0.0
        self._handlers: dict[int, Callable[..., None]] = {
            Op.PUBLISH: self._on_publish, Op.ACK: self._on_ack, Op.NACK: self._on_nack, Op.TERM: self._on_term,
            Op.PROGRESS: self._on_progress, Op.SUBSCRIBE: self._on_subscribe, Op.UNSUBSCRIBE: self._on_unsubscribe,
            Op.REPLAY: self._on_replay, Op.REQUEST: self._on_request, Op.ANSWER: self._on_answer,
            Op.SERVE: self._on_serve, Op.PING: self._on_ping,
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
        self._waiting = [waiting for waiting in self._waiting if waiting.client is not client]
        for bid, asked in list(self._asked.items()):
            if asked.client is client:
                del self._asked[bid]
            elif asked.responder is client:
                del self._asked[bid]
                self._refuse_asked(asked, "no_responder", f"{client.name} went away")
        self._out.pop(routing, None)

    def receive(self, client: Client, operation: list[Any]) -> None:
        """One operation. What can't be met is answered with a refusal; garbage raises ValueError, TypeError or
        LookupError."""
        handler = self._handlers.get(operation[0])
        if handler is None:
            raise ValueError(f"unknown operation {operation[0]!r}")
        handler(client, *operation[1:])

    def _on_ack(self, client: Client, rid: int, group: str, offsets: list[int], bodies: list[bytes]) -> None:
        if bodies:
            self._on_publish(client, rid, bodies, self.groups.get(group), tuple(offsets))
        else:
            self._calls.append(_Call(client, rid, [], [], self.groups.get(group), tuple(offsets)))

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
        if not session.startswith(client.rights.replay):
            self.denied(client.name, "replay", f"{client.name} may not replay {session}")
            self._refuse(client.routing, rid, "denied", f"{client.name} may not replay {session}")
            return
        waiting = _Waiting(client, rid, session, after, min(limit, REPLAY_MESSAGES_MAX),
                           self._monotonic() + wait_ms / 1000)
        if not self._replay(waiting, final=wait_ms == 0):
            self._waiting.append(waiting)

    def _on_answer(self, client: Client, bid: int, body: bytes) -> None:
        asked = self._asked.get(bid)
        if asked is not None and asked.responder is client:
            del self._asked[bid]
            asked.client.requests -= 1
            self._out[asked.client.routing].append([Op.REQUEST, asked.rid, body])

    def _on_serve(self, client: Client) -> None:
        client.serves = True

    def _on_ping(self, client: Client) -> None:
        self._out[client.routing].append([Op.PING])

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
                body, not_before, expires, expected = item if isinstance(item, list) else (item, 0, 0, None)
                envelope = decode(body)
                kind = kind_of(envelope.payload)
                self._check_rights(client, envelope, kind)
                digest = digest_of(envelope.session_id, envelope.source, envelope.payload)
                rows.append(NewRow(0, envelope.message_id, 0, 0, 0, digest, body, not_before or None, expires or None))
                names.append((envelope.session_id, kind, expected))
        except EnvelopeTooBig as error:
            self._refuse(client.routing, rid, "too_big", str(error))
        except EnvelopeError as error:
            self._refuse(client.routing, rid, "version" if error.field == "v" else "malformed", str(error))
        except Refusal as refusal:
            if refusal.code == "denied":
                self.denied(client.name, "publish", refusal.why)
            self._refuse(client.routing, rid, refusal.code, refusal.why)
        else:
            self._calls.append(_Call(client, rid, rows, names, group, offsets))

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

    def _session(self, name: str) -> tuple[int, int]:
        """(number, last seq), made on first use. Inside a transaction."""
        known = self._sessions.get(name)
        if known is None:
            known = self.journal.session(name) or (self.journal.add_session(name), 0)
            self._sessions[name] = known
            self._session_names[known[0]] = name
        return known

    def _kind(self, name: str) -> int:
        no = self._kinds.get(name)
        if no is None:
            no = self._kinds[name] = self.journal.add_kind(name)
        return no

    def _place(self, calls: list[_Call]) -> list[NewRow]:
        """Give the calls' messages their offsets and seqs."""
        rows: list[NewRow] = []
        last: dict[str, tuple[int, int]] = {}
        offset = self._last_offset
        known, kinds = self._sessions, self._kinds
        for call in calls:
            for row, (session, kind, _) in zip(call.rows, call.names, strict=True):
                no, seq = last.get(session) or known.get(session) or self._session(session)
                offset += 1
                seq += 1
                last[session] = (no, seq)
                row.offset = offset
                row.session = no
                row.seq = seq
                row.kind = kinds.get(kind) or self._kind(kind)
                rows.append(row)
        return rows

    def _placed(self, rows: list[NewRow], calls: list[_Call]) -> None:
        """They are stored: remember the last seqs, keep the tail."""
        for call in calls:
            for row, (session, _, _) in zip(call.rows, call.names, strict=True):
                self._sessions[session] = (row.session, row.seq)
        if rows:
            self._last_offset = rows[-1].offset
            self._tail.extend(rows)

    def _store(self, now_ms: int) -> None:
        """All calls at once; when an id was seen before, call by call."""
        calls = self._calls
        rows = self._place(calls)
        if self._plain(rows, calls) and self.journal.insert(rows, now_ms):
            for call in calls:
                call.answer = [[row.seq, False] for row in call.rows]
            self._placed(rows, calls)
            self.published += len(rows)
            return
        for call in calls:
            self._store_one(call, now_ms)

    @staticmethod
    def _plain(rows: list[NewRow], calls: list[_Call]) -> bool:
        """No id twice, nothing fenced: the calls can't be in each other's way."""
        return len({row.message_id for row in rows}) == len(rows) and not any(
            expected is not None for call in calls for _, _, expected in call.names
        )

    def _store_one(self, call: _Call, now_ms: int) -> None:
        known: dict[bytes, tuple[int, bytes]] = {}
        fresh, names = [], []
        for row, name in zip(call.rows, call.names, strict=True):
            found = self.journal.find(row.message_id) or known.get(row.message_id)
            if found is None:
                known[row.message_id] = (0, row.digest)
                fresh.append(row)
                names.append(name)
            elif bytes(found[1]) != row.digest:
                self._refuse(call.client.routing, call.rid, "id_conflict",
                             f"message {row.message_id.hex()} is already there with another content")
                return
            else:
                known.setdefault(row.message_id, found)
        part = _Call(call.client, call.rid, fresh, names)
        rows = self._place([part])
        for row, (session, _, expected) in zip(fresh, names, strict=True):
            if expected is not None and row.seq != expected + 1:
                self._refuse(call.client.routing, call.rid, "fenced",
                             f"{session} is at {row.seq - 1}, not at {expected}: somebody else wrote")
                return
        if rows and not self.journal.insert(rows, now_ms):
            raise AssertionError("an id was free a moment ago and is taken now; the journal has another writer")
        self._placed(rows, [part])
        mine = {row.message_id: row.seq for row in fresh}
        call.answer = []
        for row in call.rows:
            if row.message_id in mine:
                call.answer.append([mine.pop(row.message_id), False])
            else:
                seq = self.journal.find(row.message_id)
                call.answer.append([seq[0] if seq else 0, True])
        self.published += len(fresh)
        self.duplicates += len(call.rows) - len(fresh)

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
        if self._waiting:
            self._waiting = [w for w in self._waiting if not self._replay(w, final=w.deadline <= now)]
        for bid, asked in list(self._asked.items()):
            if asked.deadline <= now:
                del self._asked[bid]
                self._refuse_asked(asked, "timeout", "no answer in time")
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
                self._store(now_ms)
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

    @staticmethod
    def _settle(calls: list[_Call]) -> None:
        for call in calls:
            if call.answer is not None and call.group is not None:
                for offset in call.offsets:
                    call.group.ack(offset)

    def _must_settle(self) -> bool:
        """There is something to commit although nothing is published, and it has waited long enough."""
        if not self._calls and not any(group.dirty for group in self.groups.values()):
            return False
        return self._monotonic() >= self._settle_at

    def _undo(self, calls: list[_Call], why: str) -> None:
        """The transaction failed: everything in memory goes back to what is on disk."""
        self.journal.rollback()
        self._calls = []
        self._full()
        self._kinds = self.journal.kinds()
        self._sessions.clear()
        self._tail.clear()
        self._last_offset = self.journal.last_offset()
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

    def _row(self, offset: int) -> Row | NewRow | None:
        return self._tail.get(offset) or self.journal.row(offset)

    def _session_name(self, number: int) -> str:
        name = self._session_names.get(number)
        if name is None:
            name = self._session_names[number] = self.journal.session_name(number)
        return name

    def _scan(self, group: Group, now: float, now_ms: int) -> None:
        """Let the group look at what is new."""
        budget = min(SCAN_MAX, group.room)
        if budget <= 0:
            return
        rows: Iterable[Row | NewRow] = self._tail.after(group.next, budget) or self.journal.scan(group.next, budget)
        names = {no: name for name, no in self._kinds.items()}
        wanted: dict[int, bool] = {}
        for row in rows:
            matches = wanted.get(row.kind)
            if matches is None:
                matches = wanted[row.kind] = group.matches(names[row.kind])
            if matches and group.sessions:
                matches = self._session_name(row.session).startswith(group.sessions)
            due_ms = row.not_before_ms or 0
            if matches and due_ms > now_ms:
                group.offer(row.offset, row.session, True, due=now + (due_ms - now_ms) / 1000, due_ms=due_ms)
            else:
                group.offer(row.offset, row.session, matches)

    def _dispatch(self, now: float, now_ms: int) -> None:
        for group in self.groups.values():
            if not group.subscribers:
                continue
            if group.next <= self._last_offset:
                self._scan(group, now, now_ms)
            if not group.can_give:
                continue
            batches: dict[tuple[bytes, int], list[list[Any]]] = defaultdict(list)
            size = 0
            while size < BATCH_BYTES_MAX and (given := group.give(now)):
                offset, subscriber, count = given
                row = self._row(offset)
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
            if group.can_give or (group.subscribers and group.next <= self._last_offset and group.room):
                return self._monotonic()
            settling = settling or group.dirty
        if self._audits and not self._no_space:
            return self._monotonic()
        times = [due for group in self.groups.values() if (due := group.next_due()) is not None]
        if settling:
            times.append(self._settle_at)
        times += [waiting.deadline for waiting in self._waiting]
        times += [asked.deadline for asked in self._asked.values()]
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
                self.denied(client.name, "subscribe", f"{client.name} may not read {pattern}")
                self._refuse(client.routing, sid, "denied", f"{client.name} may not read {pattern}")
                return
        wanted = (tuple(map(str, kinds)), str(sessions), int(ack_wait_ms) / 1000, int(max_deliver),
                  tuple(int(pause) for pause in backoff))
        group = self.groups.get(name)
        if group is None or wanted != group.wanted:
            spec = msgspec.msgpack.encode(wanted)
            floor = self._last_offset if start == "new" else max(self.journal.first_offset() - 1, 0)
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

    # --- replay and requests ----------------------------------------------------------------------------------------

    def _replay(self, waiting: _Waiting, *, final: bool) -> bool:
        """Answer a replay if there is something to say (or it is `final`). True = answered."""
        known = self._sessions.get(waiting.session) or self.journal.session(waiting.session)
        number, last = known or (0, 0)
        out = self._out[waiting.client.routing]
        if waiting.after > last:
            out.append([Op.REFUSED, waiting.rid, "epoch", f"{waiting.session} ends at {last}, not {waiting.after}", 0])
            return True
        if waiting.after == last:
            if final:
                out.append([Op.REPLAY, waiting.rid, [], last])
            return final
        base = self.journal.base_seq(number)
        if waiting.after < base:
            out.append([Op.REFUSED, waiting.rid, "gap", str(base + 1), 0])
            return True
        try:
            rows = self.journal.replay(number, waiting.after, waiting.limit)
        except Damaged as error:
            out.append([Op.REFUSED, waiting.rid, "damaged", str(error), 0])
            return True
        size = 0
        for place, (_, body) in enumerate(rows):
            size += len(body)
            if size > BATCH_BYTES_MAX:
                del rows[place + 1:]
                break
        out.append([Op.REPLAY, waiting.rid, rows, last])
        return True

    def _on_request(self, client: Client, rid: int, service: str, timeout_ms: int, body: bytes) -> None:
        if service == BROKER:
            self._asked_of_me.append((client, rid, body))
            return
        if service not in client.rights.ask and "*" not in client.rights.ask:
            self.denied(client.name, "ask", f"{client.name} may not ask {service}")
            self._refuse(client.routing, rid, "denied", f"{client.name} may not ask {service}")
            return
        # The newest that serves under this name: a service that was started anew beside its dying predecessor.
        responder = next((c for c in reversed(self.clients.values()) if c.name == service and c.serves), None)
        if responder is None:
            self._refuse(client.routing, rid, "no_responder", f"{service} is not connected to the bus")
        elif client.requests >= REQUESTS_MAX:
            self._refuse(client.routing, rid, "busy", f"{REQUESTS_MAX} requests are open", 100)
        else:
            client.requests += 1
            bid, self._next_bid = self._next_bid, self._next_bid + 1
            self._asked[bid] = _Asked(client, rid, responder, self._monotonic() + timeout_ms / 1000)
            self._out[responder.routing].append([Op.ASKED, bid, client.name, body])

    def _answer_own(self) -> None:
        questions, self._asked_of_me = self._asked_of_me, []
        for client, rid, body in questions:
            if self.own is None:
                self._refuse(client.routing, rid, "no_responder", "this broker answers nothing of itself")
                continue
            answer = self.own(body, may_administer=client.rights.admin)
            self._out[client.routing].append([Op.REQUEST, rid, msgspec.msgpack.encode(answer)])

    def _refuse_asked(self, asked: _Asked, code: str, why: str) -> None:
        asked.client.requests -= 1
        self._refuse(asked.client.routing, asked.rid, code, why)

    # --- retention --------------------------------------------------------------------------------------------------

    def expire(self) -> int:
        """Delete some of what is older than the retention and done with. Call it now and then; returns how many."""
        floors = [group.floor for group in self.groups.values()]
        floor = min(floors, default=self._last_offset)
        try:
            self.journal.begin()
            gone = self.journal.expire(self._wall_ms() - self._retention_ms, floor, EXPIRE_ROWS_MAX)
            self.journal.commit()
        except NoSpace:
            self._full()
            return 0
        return gone

    @property
    def no_space(self) -> bool:
        """The last commit failed because the disk is full."""
        return self._no_space

    @property
    def last_offset(self) -> int:
        """The newest offset given."""
        return self._last_offset

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
            "last_offset": self._last_offset, "published": self.published, "duplicates": self.duplicates,
            "commits": self.commits, "clients": len(self.clients), "no_space": int(self._no_space),
            "in_flight": sum(len(group.leases) for group in self.groups.values()),
            "dead": self.journal.counts()["dead"],
        }
