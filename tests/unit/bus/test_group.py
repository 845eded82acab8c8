"""The consumer group against a small model: random consumers, settlements, crashes of the broker."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microclaw.bus.group import LOADED_MAX, Group
from microclaw.bus.journal_schema import Parked
from microclaw.bus.leases import Subscriber, Wanted
from microclaw.bus.subjects import subject_matcher


@dataclass
class Message:
    """As the group looks at one."""

    offset: int
    session: int
    kind: int
    not_before_ms: int | None


class Disk:
    """What of a group is durable, as the journal would keep it."""

    def __init__(self) -> None:
        self.floor = 0
        self.settled: set[int] = set()
        self.parked: dict[int, Parked] = {}
        self.dead: set[int] = set()

    def write(self, group: Group) -> None:
        durable = group.durable()
        self.floor = durable.floor
        self.settled |= set(durable.beyond)
        if durable.sweep:
            self.settled = {offset for offset in self.settled if offset > durable.floor}
        for parked in durable.parked:
            self.parked[parked.offset] = parked
        for offset in durable.unparked:
            self.parked.pop(offset, None)
        for item, _reason in durable.buried:
            self.parked.pop(item.offset, None)
            self.dead.add(item.offset)
        group.saved(durable)


class World:
    def __init__(self, seed: int, sessions: int) -> None:
        self.random = random.Random(seed)
        self.disk = Disk()
        self.messages: list[tuple[int, bool, float]] = []  # session, matches, due (0 = at once); offset = index + 1
        self.sessions = sessions
        self.now = 0.0
        self.done: list[int] = []
        self.out: dict[int, Subscriber] = {}
        self.boot()

    def boot(self) -> None:
        """The broker starts: only what is on disk is known."""
        self.group = Group(1, "g", self.disk.floor, Wanted((">",), "", 10, 10**6, (0, 100)))
        parked = [(item, self.messages[offset - 1][0]) for offset, item in sorted(self.disk.parked.items())]
        ahead = set(self.disk.settled) | {offset for offset in self.disk.dead if offset > self.disk.floor}
        self.group.restore(ahead, parked, self.now, int(self.now * 1000))
        self.out.clear()
        self.subscribers: list[Subscriber] = []

    def step(self) -> None:
        choose = self.random.random()
        ms = int(self.now * 1000)
        if choose < 0.3:
            due = self.now + self.random.choice([0.1, 5]) if self.random.random() < 0.1 else 0.0
            self.messages.append((self.random.randrange(self.sessions), self.random.random() < 0.8, due))
        elif choose < 0.35:
            subscriber = Subscriber(b"x", self.random.randrange(1 << 30), self.random.randint(1, 3))
            self.subscribers.append(subscriber)
            self.group.subscribers.append(subscriber)
        elif choose < 0.39 and self.subscribers:
            gone = self.subscribers.pop(self.random.randrange(len(self.subscribers)))
            self.group.leave(gone, self.now, ms, clean=self.random.random() < 0.5)
            self.out = {offset: who for offset, who in self.out.items() if who is not gone}
        elif choose < 0.41:
            self.boot()
        elif choose < 0.45:
            self.now += self.random.choice([0.05, 0.2, 11])
            self.group.wake(self.now, int(self.now * 1000))
            self.out = {offset: who for offset, who in self.out.items() if offset in self.group.leases}
        elif choose < 0.75 and self.out:
            offset = self.random.choice(list(self.out))
            del self.out[offset]
            self.done.append(offset)
            self.group.ack([offset], len(self.messages))
        elif choose < 0.8 and self.out:
            offset = self.random.choice(list(self.out))
            del self.out[offset]
            self.group.nack(offset, self.random.choice([None, 0, 50]), "later", self.now, ms)
        self.turn()

    def turn(self) -> None:
        self.disk.write(self.group)
        new = [
            Message(offset, session, int(matches), math.ceil(due * 1000) if due else None)
            for offset, (session, matches, due) in enumerate(self.messages[self.group.next - 1:], self.group.next)
        ]
        self.group.look(new, {1}, None, self.now, int(self.now * 1000))
        while given := self.group.give(self.now, self.random.randint(1, 4)):
            for one in given:
                assert len(one.offsets) == len(one.counts)
                for offset in one.offsets:
                    self.check_given(offset)
                    self.out[offset] = one.subscriber
        held: dict[int, int] = defaultdict(int)
        for subscriber in self.out.values():
            held[id(subscriber)] += 1
        assert all(held[id(s)] <= s.max_in_flight for s in self.subscribers)

    def check_given(self, offset: int) -> None:
        assert offset not in self.out, "given twice at once"
        assert offset not in self.done, "given again after it was settled on disk"
        session, _, due = self.messages[offset - 1]
        assert due <= self.now + 0.002, "given before it was due"
        earlier = [o for o, (s, m, d) in enumerate(self.messages[: offset - 1], 1) if s == session and m and not d]
        assert due or all(o in self.done for o in earlier), "given before an earlier one of its session was settled"

    def drain(self) -> None:
        """Everything can be finished from here."""
        self.boot()
        self.group.subscribers.append(Subscriber(b"x", 1, 5))
        for _ in range(20 * len(self.messages) + 50):
            self.now += 1
            self.group.wake(self.now, int(self.now * 1000))
            self.turn()
            self.done += self.out
            self.group.ack(list(self.out), len(self.messages))
            self.disk.write(self.group)
            self.out.clear()
        self.disk.write(self.group)


def test_what_was_buried_while_it_waited_and_is_revived_is_given_once() -> None:
    group = Group(1, "g", 0, Wanted((">",), "", 10, 9, (100,)))
    group.subscribers.append(one := Subscriber(b"x", 1, 5))
    group.look([Message(1, 1, 1, None)], {1}, None, 0.0, 0)
    assert [given.offsets for given in group.give(0.0, 9)] == [[1]]
    group.nack(1, 100, "later", 0.0, 0)
    group.term(1, "never")
    group.revive(1, 1)
    group.wake(1.0, 1_000)
    assert [given.offsets for given in group.give(1.0, 9)] == [[1]]
    group.ack([1], 1)
    group.saved(group.durable())
    assert (one.in_flight, group.loaded, group.give(2.0, 9)) == (0, 0, [])


def test_what_was_buried_while_it_waited_and_is_revived_waits_for_its_session_again() -> None:
    group = Group(1, "g", 0, Wanted((">",), "", 10, 9, (100,)))
    group.subscribers.append(Subscriber(b"x", 1, 5))
    group.look([Message(1, 1, 1, None), Message(2, 1, 1, None)], {1}, None, 0.0, 0)
    assert [given.offsets for given in group.give(0.0, 9)] == [[1]]
    group.nack(1, 100, "later", 0.0, 0)
    group.term(1, "never")
    assert [given.offsets for given in group.give(0.0, 9)] == [[2]]
    group.revive(1, 1)
    group.wake(1.0, 1_000)
    assert group.give(1.0, 9) == [], "one of a session at a time"
    group.ack([2], 2)
    group.saved(group.durable())
    assert [given.offsets for given in group.give(1.0, 9)] == [[1]]


def test_messages_that_are_not_due_yet_leave_room_for_those_that_are() -> None:
    group = Group(1, "g", 0, Wanted((">",), "", 10, 9, ()))
    group.look([Message(n, n, 1, 10**12) for n in range(1, LOADED_MAX + 1)], {1}, None, 0.0, 0)
    assert group.room == LOADED_MAX
    group.look([Message(n, n, 1, None) for n in range(LOADED_MAX + 1, 2 * LOADED_MAX + 1)], {1}, None, 0.0, 0)
    assert group.room == 0
    assert len(group.ready(2 * LOADED_MAX)) == LOADED_MAX


@pytest.mark.parametrize("how", ["acknowledged", "terminated", "expired"])
def test_what_is_settled_before_a_restarted_broker_looks_at_it_does_not_come_again(how: str) -> None:
    group = Group(1, "g", 0, Wanted((">",), "", 10, 9, ()))
    group.subscribers.append(Subscriber(b"x", 1, 5))
    # Two more messages before it, which are still to be looked at.
    group.restore(set(), [(Parked(3, 1, 0, "", ""), 1)], 0.0, 0)
    assert [given.offsets for given in group.give(0.0, 9)] == [[3]]
    match how:
        case "acknowledged":
            group.ack([3], 4)
        case "terminated":
            group.term(3, "never")
        case "expired":
            group.expire(3)
    group.saved(group.durable())
    group.look([Message(n, n, 1, None) for n in (1, 2, 3, 4)], {1}, None, 0.0, 0)
    assert [given.offsets for given in group.give(0.0, 9)] == [[1, 2, 4]]


def test_an_ack_that_came_before_its_consumer_died_is_no_dead_letter() -> None:
    """Read in one turn: the death is acted on first, the ack is settled with the commit."""
    group = Group(1, "g", 0, Wanted((">",), "", 10, 1, ()))
    group.subscribers.append(one := Subscriber(b"x", 1, 5))
    group.look([Message(1, 1, 1, None), Message(2, 2, 1, None)], {1}, None, 0.0, 0)
    group.give(0.0, 9)
    group.leave(one, 0.0, 0, clean=False)
    group.ack([1], 2)
    durable = group.durable()
    assert [parked.offset for parked, _ in durable.buried] == [2]
    assert (durable.floor, durable.unparked) == (2, [])


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), sessions=st.integers(1, 60), steps=st.integers(0, 200))
def test_every_message_is_settled_once_in_order_whatever_happens(seed: int, sessions: int, steps: int) -> None:
    world = World(seed, sessions)
    for _ in range(steps):
        world.step()
    world.drain()
    expected = [offset for offset, (_, matches, _) in enumerate(world.messages, 1) if matches]
    assert sorted(world.done) == expected, "each exactly once"
    per_session = defaultdict(list)
    for offset in world.done:
        session, _, due = world.messages[offset - 1]
        if not due:
            per_session[session].append(offset)
    assert all(order == sorted(order) for order in per_session.values())
    assert world.disk.floor == len(world.messages)
    assert not world.disk.settled
    assert not world.disk.parked


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4))
def test_a_subject_matches_itself_its_stars_and_its_tail(segments: list[str]) -> None:
    kind = ".".join(segments)
    assert subject_matcher([kind])(kind)
    assert subject_matcher([".".join("*" for _ in segments)])(kind)
    assert subject_matcher([">"])(kind)
    assert not subject_matcher([kind + ".x"])(kind)
    assert not subject_matcher([".".join(["*"] * (len(segments) + 1))])(kind)
    assert subject_matcher([segments[0] + ".>"])(kind) == (len(segments) > 1)
