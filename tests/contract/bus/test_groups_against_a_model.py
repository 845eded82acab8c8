"""Consumer groups in the engine against a small model, by a seed: several consumers, every way to settle or not to, all
sorts of messages, a disk that is full at any statement, and a broker that is killed before, within or after a commit.

What the model holds on to: what was answered is on disk; what a group has settled never comes again; one of a session
is out at a time, in order (unless the group does not care), with one consumer of the group; nothing comes too early or
too late; in the end each group has settled everything, and each effect is there once.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine_alone import Clock, EngineAlone, Peer, envelope

from microclaw.bus import journal as journal_module
from microclaw.bus.api import Subscription
from microclaw.bus.envelope import decode
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check
from microclaw.bus.journal_schema import NoSpace
from microclaw.bus.wire import Op
from microclaw.core.ids import derived_id, new_id

GROUPS = {
    "all": Subscription("all", ("work.*",), max_in_flight=3, ack_wait_ms=5_000, max_deliver=4, backoff_ms=(0, 300)),
    "some": Subscription("some", ("work.a",), sessions="s", max_in_flight=2, ack_wait_ms=2_000, max_deliver=1_000,
                         backoff_ms=(0,)),
    "loose": Subscription("loose", ("work.a",), max_in_flight=3, ack_wait_ms=3_000, max_deliver=1_000, backoff_ms=(0,),
                          in_order=False),
}
SESSIONS = ("s1", "s2", "t1")
#: Where the effects of acks go: each group's in a session of its own, which no group reads.
EFFECT = "effect.of"


@dataclass
class Message:
    """One that was published, and answered or not."""

    id: bytes
    session: str
    kind: str
    not_before_ms: int
    expires_ms: int
    body: bytes
    seq: int = 0


@dataclass
class Held:
    """A delivery that the model's consumer has."""

    message: Message
    count: int
    until: float
    acking: bool = False


@dataclass
class Consumer:
    group: str
    peer: Peer
    held: dict[int, Held] = field(default_factory=dict)


class World:
    """The engine, its clients, and what must be true."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.clock = Clock()
        self.messages: dict[bytes, Message] = {}
        self.order: dict[str, list[bytes]] = defaultdict(list)
        self.offsets: dict[int, bytes] = {}
        self.done: dict[str, set[bytes]] = {group: set() for group in GROUPS}
        self.revived: dict[str, set[bytes]] = {group: set() for group in GROUPS}
        #: Effects that were asked for: cause and group, and whether it was answered.
        self.effects: dict[bytes, bool] = {}
        #: Said and not answered, sent again after a restart: key → (group whose consumer says it, "" = the publisher;
        #: operation without its rid; what to do when it is answered).
        self.open: dict[int, tuple[str, list[Any], Any]] = {}
        self.rid = 1_000
        self.starts = 0
        self.boot()

    # --- the broker -------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        with mock.patch.object(journal_module, "PREWARM_BYTES", 0):
            self.journal = Journal(self.folder / "journal.db", synchronous="OFF")
        self.starts += 1
        self.alone = EngineAlone(self.journal, self.clock, retention_ms=1 << 40)
        self.publisher = self.alone.connect("p")
        self.consumers = [self.subscribe(group) for group in GROUPS for _ in range(2)]
        for rid, (who, operation, _) in self.open.items():
            self.say(who, rid, operation)
        self.turn()

    def subscribe(self, group: str) -> Consumer:
        peer = self.alone.connect("c")
        self.alone.subscribe(peer, GROUPS[group])
        return Consumer(group, peer)

    def say(self, who: str, rid: int, operation: list[Any]) -> None:
        peers = [c.peer for c in self.consumers if c.group == who] if who else [self.publisher]
        self.alone.say(self.random.choice(peers), operation[0], rid, *operation[1:])

    def ask(self, who: str, operation: list[Any], answered: Any) -> None:
        self.rid += 1
        self.open[self.rid] = who, operation, answered
        self.say(who, self.rid, operation)

    def full_soon(self) -> None:
        """The disk is full at one of the next statements, once."""
        left = self.random.randrange(12)
        write = self.journal._write

        def counted(sql: str, parameters: Any = ()) -> None:
            nonlocal left
            left -= 1
            if left < 0 and self.journal._in_transaction():
                self.journal._write = write  # type: ignore[method-assign]
                self.journal.rollback()
                raise NoSpace
            write(sql, parameters)

        self.journal._write = counted  # type: ignore[method-assign]

    def turn(self) -> None:
        self.alone.turn()
        self.hear()

    def hear(self) -> None:
        for peer in self.alone.peers.values():
            for rid in [rid for rid in peer.receipts if rid in self.open]:
                _, _, answered = self.open.pop(rid)
                answered([seq for seq, _ in peer.receipts.pop(rid)])
            for rid, (code, *_) in list(peer.refusals.items()):
                if rid in self.open:
                    assert code == "no_space", code
                    who, operation, _ = self.open[rid]
                    self.say(who, rid, operation)
                del peer.refusals[rid]
        for consumer in self.consumers:
            for offset, seq, count, body in self.alone.taken(consumer.peer):
                self.check(consumer, offset, seq, count, body)
            live = [one for one in consumer.held.values() if self.live(consumer.group, one)]
            assert len(live) <= GROUPS[consumer.group].max_in_flight

    def check(self, consumer: Consumer, offset: int, seq: int, count: int, body: bytes) -> None:
        message = self.messages[decode(body).message_id]
        group, done = consumer.group, self.done[consumer.group]
        assert self.offsets.setdefault(offset, message.id) == message.id
        assert not message.seq or message.seq == seq
        assert message.id not in done, "settled is settled"
        assert message.not_before_ms <= self.clock.wall_ms
        assert not message.expires_ms or message.expires_ms > self.clock.wall_ms
        assert 1 <= count <= GROUPS[group].max_deliver
        now = self.clock.monotonic_s
        out = [
            held.message.session for other in self.consumers if other.group == group for held in other.held.values()
            if self.live(group, held)
        ]
        past = done | self.dead(group) | self.revived[group]
        if GROUPS[group].in_order:
            assert message.session not in out, "one of a session"
        if GROUPS[group].in_order and not message.not_before_ms and message.id not in self.revived[group]:
            for earlier in self.order[message.session]:
                if earlier == message.id:
                    break
                assert earlier in past or not self.waits(group, self.messages[earlier]), "in order"
        consumer.held[offset] = Held(message, count, now + GROUPS[group].ack_wait_ms / 1000)

    def live(self, group: str, held: Held) -> bool:
        """Nobody else may have it."""
        return held.until > self.clock.monotonic_s and held.message.id not in self.done[group]

    def dead(self, group: str) -> set[bytes]:
        """Dead letters, also those that are not written yet."""
        found = self.alone.engine.groups[group]
        written = self.journal.dead_offsets(found.no)
        return {self.offsets[offset] for offset in (*written, *(one.offset for one, _ in found.changes.buried))}

    def waits(self, group: str, message: Message) -> bool:
        """Later ones of its session must wait for it."""
        return self.wants(group, message) and not message.not_before_ms and not message.expires_ms

    @staticmethod
    def wants(group: str, message: Message) -> bool:
        kinds = ("work.a", "work.b") if group == "all" else ("work.a",)
        return message.kind in kinds and message.session.startswith(GROUPS[group].sessions)

    # --- what happens -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.25:
            self.publish()
        elif chance < 0.65:
            self.settle()
        elif chance < 0.75:
            self.pass_(self.random.choice([0.05, 0.4, 2.1, 5.1]))
        elif chance < 0.79:
            self.leave()
        elif chance < 0.84:
            self.full_soon()
        elif chance < 0.88:
            self.kill()
        elif chance < 0.91:
            self.requeue()
        elif chance < 0.94:
            self.alone.engine.upkeep.tidy(now=True)
        elif chance < 0.97:
            self.alone.engine.upkeep.expire()
        if self.random.random() < 0.8:
            self.turn()

    def publish(self) -> None:
        new = []
        for _ in range(self.random.choice([1, 1, 2, 5])):
            session, kind = self.random.choice(SESSIONS), self.random.choice(["work.a", "work.b", "other.c"])
            chance, now_ms = self.random.random(), self.clock.wall_ms
            not_before_ms = now_ms + self.random.choice([1, 700, 4_000]) if chance < 0.15 else 0
            expires_ms = now_ms + self.random.choice([0, 300, 3_000]) if 0.1 < chance < 0.25 else 0
            message_id = new_id(now_ms)
            body = envelope("p", session, message_id, kind)
            new.append(Message(message_id, session, kind, not_before_ms, expires_ms, body))
        items = [[m.body, m.not_before_ms, m.expires_ms, None] if m.not_before_ms or m.expires_ms else m.body
                 for m in new]
        self.messages |= {message.id: message for message in new}

        def answered(seqs: list[int]) -> None:
            for message, seq in zip(new, seqs, strict=True):
                message.seq = seq
                order = self.order[message.session]
                order.extend([b""] * (seq - len(order)))
                order[seq - 1] = message.id

        self.ask("", [Op.PUBLISH, items], answered)

    def settle(self) -> None:
        held = [(c, offset, h) for c in self.consumers for offset, h in c.held.items() if not h.acking]
        if not held:
            return
        consumer, offset, one = self.random.choice(held)
        group, chance = consumer.group, self.random.random()
        if chance < 0.6:
            self.ack(consumer, offset, one, effect=chance < 0.3)
        elif chance < 0.8:
            del consumer.held[offset]
            self.alone.say(consumer.peer, Op.NACK, group, offset, self.random.choice([None, 0, 200, 3_000]), "later")
        elif chance < 0.85 and group == "all":
            del consumer.held[offset]
            self.alone.say(consumer.peer, Op.TERM, group, offset, "never")
        elif chance < 0.95 and one.until > self.clock.monotonic_s:
            one.until = self.clock.monotonic_s + GROUPS[group].ack_wait_ms / 1000
            self.alone.say(consumer.peer, Op.PROGRESS, group, offset)

    def ack(self, consumer: Consumer, offset: int, one: Held, *, effect: bool) -> None:
        group, cause = consumer.group, one.message.id
        items = []
        if effect:
            self.effects.setdefault(cause + group.encode(), False)
            derived = derived_id(1, group, cause.hex())
            items = [envelope("c", f"{EFFECT}.{group}", derived, "other.effect", cause.hex())]
        one.acking = True
        killed = self.starts

        def answered(_seqs: list[int]) -> None:
            self.done[group].add(cause)
            if effect:
                self.effects[cause + group.encode()] = True
            if killed == self.starts:
                consumer.held.pop(offset, None)

        self.ask(group, [Op.ACK, group, [offset], items], answered)

    def pass_(self, seconds: float) -> None:
        self.clock.pass_(seconds)
        for consumer in self.consumers:
            consumer.held = {
                offset: one for offset, one in consumer.held.items()
                if one.acking or one.until > self.clock.monotonic_s or self.random.random() < 0.5
            }

    def leave(self) -> None:
        consumer = self.random.choice(self.consumers)
        self.alone.engine.gone(consumer.peer.routing, clean=self.random.random() < 0.5)
        self.consumers[self.consumers.index(consumer)] = self.subscribe(consumer.group)

    def kill(self) -> None:
        if self.random.random() < 0.5:
            # After a commit, before anybody is told.
            self.alone.engine.turn()
        self.journal.close()
        self.boot()

    def requeue(self) -> None:
        group = self.alone.engine.groups["all"]
        for offset in self.journal.dead_offsets(group.no):
            try:
                if self.alone.engine.upkeep.requeue(group, offset):
                    self.done["all"].discard(self.offsets[offset])
                    self.revived["all"].add(self.offsets[offset])
            except NoSpace:
                pass

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything can be settled from here, and is, once."""
        self.journal.__dict__.pop("_write", None)
        for _ in range(400):
            self.finish_some()
            if not self.open and not any(group.loaded for group in self.alone.engine.groups.values()):
                break
        assert not self.open
        for name in GROUPS:
            self.check_settled(name)
        for session, ids in self.order.items():
            assert self.alone.engine.storage.session(session)[1] == len(ids), "dense"
        self.alone.engine.upkeep.expire()
        self.journal.close()
        assert check(self.folder / "journal.db") == []
        self.boot()
        self.alone.settle_down()
        self.hear()
        assert not any(consumer.held for consumer in self.consumers), "nothing comes again"
        assert not any(self.journal.parked(group.no) for group in self.alone.engine.groups.values())
        self.journal.close()

    def finish_some(self) -> None:
        for consumer in self.consumers:
            for offset, one in list(consumer.held.items()):
                if not one.acking:
                    self.ack(consumer, offset, one, effect=False)
        self.clock.pass_(0.5)
        self.turn()
        for consumer in self.consumers:
            consumer.held = {offset: one for offset, one in consumer.held.items() if self.live(consumer.group, one)}

    def check_settled(self, name: str) -> None:
        group = self.alone.engine.groups[name]
        assert (group.loaded, len(group.leases)) == (0, 0)
        assert [one.in_flight for one in group.subscribers] == [0, 0]
        dead = {self.offsets[offset] for offset in self.journal.dead_offsets(group.no)}
        for message in self.messages.values():
            settled = message.id in self.done[name] | dead
            assert settled or not self.wants(name, message) or message.expires_ms, "settled by everybody who wants it"
            assert not settled or self.wants(name, message)
        stored = [decode(row.body) for row in self.journal.scan(1, 1 << 30)]
        effects = [one.message_id for one in stored if one.session_id == f"{EFFECT}.{name}"]
        assert len(set(effects)) == len(effects)
        answered = {key[:16] for key, answered in self.effects.items() if answered and key.endswith(name.encode())}
        assert {derived_id(1, name, cause.hex()) for cause in answered} <= set(effects)


def play(seed: int, steps: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mc-groups-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        world = World(seed, folder)
        for _ in range(steps):
            world.step()
        world.finish()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@settings(max_examples=int(os.environ.get("MC_MODEL_EXAMPLES", "60")),
          suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 120))
def test_each_group_settles_everything_once_whatever_happens_to_broker_disk_and_consumers(
    seed: int, steps: int
) -> None:
    play(seed, steps)
