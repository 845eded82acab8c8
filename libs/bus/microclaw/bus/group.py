"""A consumer group's place in the journal: who was given what, what comes next, what waits.

Pure: offsets and times in, decisions out. The durable part of it is the *floor* (everything up to it is settled),
the offsets settled beyond it, and what is *parked* (set aside with its number of deliveries, so that the floor may
pass it). The rest is rebuilt by looking at the journal from the floor on.

One message of a session is out at a time, in order: the *head*. The others of that session wait behind it, also
while it waits for redelivery. Messages of other sessions pass. In a group that does not care for order each message has
a *lane* of its own instead of its session's.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import filterfalse, islice

from microclaw.bus.journal_schema import Parked
from microclaw.bus.leases import Attempt, Changes, Durable, Given, Lease, Offered, Subscriber, Wanted
from microclaw.bus.subjects import subject_matcher

#: Offsets a group holds in memory and that are not delivered yet, at most.
LOADED_MAX = 10_000
#: The same of those that are not due yet, which are in nobody's way.
LATER_MAX = 50_000
#: How far an unsettled message may lag behind before it is parked, in offsets.
LAG_MAX = 50_000
#: Longest pause that a nack may ask for, ms: a day.
PAUSE_MS_MAX = 24 * 3600 * 1000


class Group:
    """One consumer group."""

    def __init__(self, no: int, name: str, floor: int, wanted: Wanted) -> None:
        self.no = no
        self.name = name
        #: The next offset to look at.
        self.next = floor + 1
        self.subscribers: deque[Subscriber] = deque()
        #: What must be written with the next commit.
        self.changes = Changes()
        self.leases: dict[int, Lease] = {}
        #: No lease ends before this (monotonic seconds); the one it was taken from may be settled meanwhile.
        self._lease_due = math.inf
        self.redelivered = 0
        #: Settled without a delivery, because their time was over.
        self.expired = 0
        self._saved_beyond: set[int] = set()
        #: Unsettled and not parked, in rising order of offset, → session.
        self._pending: dict[int, int] = {}
        #: Unsettled and parked → session.
        self._parked: dict[int, int] = {}
        self._head: dict[int, int] = {}
        self._behind: dict[int, deque[int]] = {}
        self._ready: deque[int] = deque()
        self._delayed: list[tuple[float, int]] = []
        self._attempts: dict[int, Attempt] = {}
        #: Not due yet → session: in nobody's way.
        self._later: dict[int, int] = {}
        self._settled_ahead: set[int] = set()
        self.want(wanted)

    def want(self, wanted: Wanted) -> None:
        """Change what the group subscribes to, for messages not looked at yet."""
        self.wanted = wanted
        self._kind_nos: tuple[int, frozenset[int]] = (0, frozenset())
        self.backoff_ms = wanted.backoff_ms or (0,)
        self.matches = subject_matcher(wanted.kinds)

    def kind_nos(self, kinds: dict[str, int]) -> frozenset[int]:
        """Which of these kinds (name → number; there never are fewer) it subscribes to."""
        known, nos = self._kind_nos
        if known != len(kinds):
            nos = frozenset(no for name, no in kinds.items() if self.matches(name))
            self._kind_nos = len(kinds), nos
        return nos

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        """Everything up to here is settled or parked."""
        return next(iter(self._pending), self.next) - 1

    @property
    def loaded(self) -> int:
        """Unsettled messages in memory."""
        return len(self._pending) + len(self._parked)

    @property
    def room(self) -> int:
        """How many more may be loaded."""
        later = len(self._later)
        return max(0, min(LOADED_MAX - (self.loaded - later), LATER_MAX - later))

    @property
    def can_give(self) -> bool:
        """Something is ready and somebody has room for it."""
        if self._ready:
            for subscriber in self.subscribers:
                if subscriber.in_flight < subscriber.max_in_flight:
                    return True
        return False

    @property
    def parked(self) -> int:
        """Unsettled messages that were set aside."""
        return len(self._parked)

    def oldest_unsettled(self) -> int | None:
        """The lowest offset not settled, parked ones included."""
        lowest = [next(iter(self._pending), None), min(self._parked, default=None)]
        return min((offset for offset in lowest if offset is not None), default=None)

    def holds(self, offset: int) -> bool:
        """Not settled yet."""
        return offset in self._pending or offset in self._parked

    # --- coming in --------------------------------------------------------------------------------------------------

    def restore(self, settled: set[int], parked: Iterable[tuple[Parked, int]], now: float, now_ms: int) -> None:
        """The durable part, after a start: settled offsets beyond the floor, and (parked, its session)."""
        self._settled_ahead = settled
        self._saved_beyond = set(settled)
        for item, session in parked:
            session = self._lane(item.offset, session)
            self._parked[item.offset] = session
            self._attempts[item.offset] = Attempt(item.count, item.first_error, item.last_error)
            if item.count == 0 and item.due_ms > now_ms:
                self._later[item.offset] = session
                heapq.heappush(self._delayed, (now + (item.due_ms - now_ms) / 1000, item.offset))
                continue
            # The clock may have been set: no pause is longer than the longest there is.
            delay_s = max(0, min(item.due_ms - now_ms, PAUSE_MS_MAX)) / 1000
            self._queue_up(item.offset, session, now + delay_s if delay_s else None)

    def offer(
        self, offset: int, session: int, matches: bool, *, due: float | None = None, due_ms: int = 0
    ) -> None:
        """The next message of the journal, whether it is for this group or not. Offsets come in rising order. `due`
        (monotonic seconds, and the same as Unix ms): not before then."""
        self.next = offset + 1
        if offset in self._settled_ahead:
            self._settled_ahead.discard(offset)
            return
        if not matches or offset in self._parked:
            return
        self._pending[offset] = session
        if due is not None:
            # Aside, so that neither its session nor the floor waits for it.
            self._later[offset] = session
            self._park(offset, due_ms)
            heapq.heappush(self._delayed, (due, offset))
            return
        self._queue_up(offset, session, None)

    def look(
        self, rows: Iterable[Offered], kinds: Container[int], wants: Callable[[Offered], bool] | None, now: float,
        now_ms: int,
    ) -> None:
        """The next messages of the journal; for this group are those of these `kinds` of which `wants` (if there is
        such a thing) is true."""
        pending, head, behind, ready = self._pending, self._head, self._behind, self._ready
        unusual = self._settled_ahead or self._parked
        in_order = self.wanted.in_order
        offset = self.next - 1
        for row in rows:
            offset, due_ms = row.offset, row.not_before_ms
            session = row.session if in_order else -offset
            matches = row.kind in kinds and (wants is None or wants(row))
            if unusual or due_ms is not None:
                due = now + (due_ms - now_ms) / 1000 if due_ms is not None and due_ms > now_ms else None
                self.offer(offset, session, matches, due=due, due_ms=due_ms or 0)
                unusual = self._settled_ahead or self._parked
            # As `offer`, for what nearly all messages are.
            elif matches:
                pending[offset] = session
                if session not in head:
                    head[session] = offset
                    ready.append(offset)
                elif session in behind:
                    behind[session].append(offset)
                else:
                    behind[session] = deque((offset,))
        self.next = offset + 1

    def _lane(self, offset: int, session: int) -> int:
        """Of the messages of one lane one is out at a time. Numbers of sessions are above 0."""
        return session if self.wanted.in_order else -offset

    def _queue_up(self, offset: int, session: int, due: float | None) -> None:
        if session in self._head:
            self._behind.setdefault(session, deque()).append(offset)
            return
        self._head[session] = offset
        if due is None:
            self._ready.append(offset)
        else:
            heapq.heappush(self._delayed, (due, offset))

    # --- going out --------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many more its consumers take."""
        return sum([max(0, one.max_in_flight - one.in_flight) for one in self.subscribers])

    def ready(self, limit: int) -> list[int]:
        """What `give` would give next, about: what was settled meanwhile is still among it."""
        return list(islice(self._ready, limit))

    def give(self, now: float, limit: int) -> list[Given]:
        """Up to `limit` of what is ready, in its order, to consumers who can take it; they take turns."""
        deadline = now + self.wanted.ack_wait_s
        given: dict[Subscriber, tuple[Given, Lease]] = {}
        left = min(limit, len(self._ready))
        while left and (subscriber := self._next_with_room()):
            one = given.get(subscriber)
            if one is None:
                one = given[subscriber] = Given(subscriber), Lease(subscriber, deadline)
            room = subscriber.max_in_flight - subscriber.in_flight if len(self.subscribers) == 1 else 1
            looked = min(left, room)
            left -= looked
            self._lend(looked, *one)
        if given and deadline < self._lease_due:
            self._lease_due = deadline
        return [one for one, _ in given.values() if one.offsets]

    def _lend(self, number: int, given: Given, lease: Lease) -> None:
        """The next so many that are ready, to one consumer."""
        leases, pending, parked, attempts = self.leases, self._pending, self._parked, self._attempts
        next_ready = self._ready.popleft
        offsets = [next_ready() for _ in range(number)]
        # Of most messages there is nothing to remember before they are settled.
        counts = [1] * len(offsets)
        if attempts or not leases.keys().isdisjoint(offsets) or not all(map(pending.__contains__, offsets)):
            looked, offsets, counts = offsets, [], []
            for offset in looked:
                if offset in leases or (offset not in pending and offset not in parked):
                    continue
                count = 1
                if attempt := attempts.get(offset):
                    if attempt.count >= self.wanted.max_deliver:
                        self._bury(offset, f"delivered {attempt.count} times without success")
                        continue
                    count = attempt.count = attempt.count + 1
                    self.redelivered += count > 1
                offsets.append(offset)
                counts.append(count)
        leases.update(dict.fromkeys(offsets, lease))
        given.offsets += offsets
        given.counts += counts
        lease.subscriber.in_flight += len(offsets)

    def _next_with_room(self) -> Subscriber | None:
        """They take turns."""
        subscribers = self.subscribers
        for _ in range(len(subscribers)):
            subscriber = subscribers[0]
            if len(subscribers) > 1:
                subscribers.rotate(-1)
            if subscriber.in_flight < subscriber.max_in_flight:
                return subscriber
        return None

    def wake(self, now: float, now_ms: int) -> None:
        """Make ready what is due, and take back what was not settled in time."""
        while self._delayed and self._delayed[0][0] <= now:
            _, offset = heapq.heappop(self._delayed)
            session = self._later.pop(offset, None)
            if session is None:
                self._ready.append(offset)
            else:
                self._queue_up(offset, session, None)
        if self._lease_due <= now:
            late = [offset for offset, lease in self.leases.items() if lease.deadline <= now]
            for offset in late:
                self._take_back(offset, f"no answer for {self.wanted.ack_wait_s:g} s", now, now_ms)
            self._lease_due = min((lease.deadline for lease in self.leases.values()), default=math.inf)

    def next_due(self) -> float | None:
        """When `wake` has something to do, monotonic seconds."""
        due = min(self._lease_due, self._delayed[0][0]) if self._delayed else self._lease_due
        return None if due == math.inf else due

    # --- settling ---------------------------------------------------------------------------------------------------

    def ack(self, offsets: Sequence[int], last_offset: int) -> None:
        """These are done, whoever says it, also late: by a lease or after it, or to the successor of the broker that
        gave them, which may not have looked at them yet. `last_offset`: there are no messages after this one.

        It becomes true once it is on disk (`saved`): what could not be written (`undone`) is as it was, with whoever
        has it."""
        if offsets and max(offsets) > last_offset:
            offsets = [offset for offset in offsets if offset <= last_offset]
        self.changes.acked += offsets

    def _settle_acked(self, offsets: list[int]) -> None:
        leases, pending, head, behind = self.leases, self._pending, self._head, self._behind
        ready = self._ready
        unusual = bool(self._attempts or self._later)
        for offset in offsets:
            if lease := leases.pop(offset, None):
                lease.subscriber.in_flight -= 1
            session = pending.get(offset)
            if session is None or unusual or head.get(session) != offset:
                if self.holds(offset):
                    self._settle(offset)
                elif offset >= self.next:
                    self._settled_ahead.add(offset)
                continue
            # As `_settle`, for what nearly all messages are.
            del pending[offset]
            waiting = behind.get(session)
            if waiting:
                head[session] = following = waiting.popleft()
                ready.append(following)
            else:
                del head[session]
            if waiting is not None and not waiting:
                del behind[session]

    def progress(self, offset: int, now: float) -> None:
        """Its consumer is still at it."""
        if lease := self.leases.get(offset):
            self.leases[offset] = Lease(lease.subscriber, now + self.wanted.ack_wait_s)

    def nack(self, offset: int, delay_ms: int | None, error: str, now: float, now_ms: int) -> None:
        """Later."""
        if offset not in self.leases:
            return
        self._release(offset)
        attempt = self._attempt(offset)
        attempt.last_error = error[:500]
        attempt.first_error = attempt.first_error or attempt.last_error
        if attempt.count >= self.wanted.max_deliver:
            self._bury(offset, f"delivered {attempt.count} times without success")
            return
        if delay_ms is None:
            delay_ms = self.backoff_ms[min(attempt.count, len(self.backoff_ms)) - 1]
        delay_ms = max(0, min(delay_ms, PAUSE_MS_MAX))
        self._park(offset, now_ms + delay_ms)
        if delay_ms:
            heapq.heappush(self._delayed, (now + delay_ms / 1000, offset))
        else:
            self._ready.appendleft(offset)

    def expire(self, offset: int) -> None:
        """Its time is over: settled, undelivered."""
        self._release(offset)
        if self.holds(offset):
            self._settle(offset)
            self.changes.settled.append(offset)
            self.expired += 1

    def term(self, offset: int, reason: str) -> None:
        """Never."""
        self._release(offset)
        if self.holds(offset):
            self._bury(offset, reason[:500])

    def leave(self, subscriber: Subscriber, now: float, now_ms: int, *, clean: bool) -> None:
        """A consumer is gone: what it was given goes to others. `clean`: it said so, and that counts as no delivery."""
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
        mine = sorted((offset for offset, lease in self.leases.items() if lease.subscriber is subscriber), reverse=True)
        for offset in mine:
            if clean:
                self._release(offset)
                self._attempts.setdefault(offset, Attempt(1)).count -= 1
                self._ready.appendleft(offset)
            else:
                self._take_back(offset, "its consumer went away", now, now_ms)

    def revive(self, offset: int, session: int) -> None:
        """A dead letter comes again, as if never delivered (the journal has it parked); it goes behind what its session
        has waiting."""
        # It may have been buried while it was ready, or waited for later, and must not come for that as well.
        self._ready = deque(ready for ready in self._ready if ready != offset)
        self._delayed = [(due, delayed) for due, delayed in self._delayed if delayed != offset]
        heapq.heapify(self._delayed)
        session = self._lane(offset, session)
        self._parked[offset] = session
        self._queue_up(offset, session, None)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _release(self, offset: int) -> None:
        if lease := self.leases.pop(offset, None):
            lease.subscriber.in_flight -= 1
            # It was given: from now on that is to be remembered.
            self._attempts.setdefault(offset, Attempt(1))

    def _attempt(self, offset: int) -> Attempt:
        """What is known of its deliveries, one that is out included."""
        return self._attempts.get(offset) or Attempt(1 if offset in self.leases else 0)

    def _take_back(self, offset: int, why: str, now: float, now_ms: int) -> None:
        # Parked, so that its count survives the broker too: what kills whoever reads it is a dead letter some day.
        self.nack(offset, None, why, now, now_ms)

    def _park(self, offset: int, due_ms: int) -> None:
        if offset in self._pending:
            self._parked[offset] = self._pending.pop(offset)
        attempt = self._attempt(offset)
        self.changes.parked[offset] = Parked(offset, attempt.count, due_ms, attempt.first_error, attempt.last_error)

    def _settle(self, offset: int) -> None:
        session = self._pending.pop(offset, None)
        if session is None:
            session = self._parked.pop(offset)
            if offset >= self.next:
                # Parked by an earlier broker; that it is settled must be known when it is looked at.
                self._settled_ahead.add(offset)
            self.changes.parked.pop(offset, None)
            self.changes.unparked.append(offset)
        if self._attempts:
            self._attempts.pop(offset, None)
        if self._later:
            self._later.pop(offset, None)
        behind = self._behind.get(session)
        if self._head.get(session) != offset:
            if behind and offset in behind:
                behind.remove(offset)
        elif behind:
            following = behind.popleft()
            self._head[session] = following
            self._ready.append(following)
            if not behind:
                del self._behind[session]
        else:
            self._behind.pop(session, None)
            del self._head[session]

    def _bury(self, offset: int, reason: str) -> None:
        attempt = self._attempt(offset)
        self._settle(offset)
        self.changes.settled.append(offset)
        self.changes.buried.append(
            (Parked(offset, attempt.count, 0, attempt.first_error, attempt.last_error), reason)
        )

    def park_laggards(self) -> None:
        """Set aside what lags so far behind that it would hold the floor down."""
        while self._pending and self.next - (offset := next(iter(self._pending))) > LAG_MAX:
            self._park(offset, 0)

    # --- writing ----------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Something must be written."""
        changes = self.changes
        return bool(changes.acked or changes.settled or changes.parked or changes.unparked or changes.buried)

    def durable(self) -> Durable:
        """What is to be written: where the group is with what was acknowledged."""
        changes = self.changes
        done = set(changes.acked)
        floor = next(filterfalse(done.__contains__, self._pending), self.next) - 1
        unparked, buried = changes.unparked, changes.buried
        if not done <= self._pending.keys():
            if buried:
                # Since the last commit, say because its consumer was gone by then, and yet it is done.
                buried = [one for one in buried if one[0].offset not in done]
            unparked = unparked + [offset for offset in done if offset in self._parked]
            done = {offset for offset in done if self.holds(offset) or offset >= self.next}
        settled = [*changes.settled, *done] if changes.settled else done
        beyond = [offset for offset in settled if offset > floor] if settled and max(settled) > floor else []
        sweep = bool(self._saved_beyond) and min(self._saved_beyond) <= floor
        return Durable(floor, beyond, sweep, list(changes.parked.values()), unparked, buried)

    def saved(self, durable: Durable) -> None:
        """This is on disk."""
        self._saved_beyond.update(durable.beyond)
        if durable.sweep:
            self._saved_beyond = {offset for offset in self._saved_beyond if offset > durable.floor}
        self._settle_acked(self.changes.acked)
        self.changes = Changes()

    def undone(self) -> None:
        """It could not be written: those who acknowledged something are told, and still have it."""
        self.changes.acked.clear()
