"""Fault 2: the power goes, at any write, and the disk drops, reorders and tears what was not synced."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.engine_alone import Clock, EngineAlone, Peer, envelope
from tests.faults.powercut import Disk, PowerCut

from microclaw.bus.api import Subscription
from microclaw.bus.envelope import decode
from microclaw.bus.journal import Journal
from microclaw.core.ids import derived_id, id_time, new_id

CUTS = 104
ROWS_MIN = 30_000
#: Publishers, and calls of each in a turn: a transaction is as large as under load.
PUBLISHERS = 8
CALLS_MAX = 50
#: Messages that the consumer works on, of all: about as many as it manages at one a session and turn.
WORK_SHARE = 0.06
#: Every so many starts every page and every group's place is looked at too.
THOROUGH_EVERY = 5
WORK = Subscription("work", ("reply.requested",), ack_wait_ms=600_000, max_deliver=1_000, max_in_flight=64)


@dataclass
class Account:
    """What the outside was told, against which the journal is held after every cut."""

    #: id → (session, seq) of every acknowledged message.
    acknowledged: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    #: Sent and never answered: (publisher, body, session), to be sent again.
    unanswered: dict[bytes, tuple[int, bytes, str]] = field(default_factory=dict)
    lost: int = 0
    moved: int = 0
    undone_acks: int = 0
    #: A message settled without its effect or the other way round.
    halves: int = 0


class Mesh:
    """Publishers and a consumer around an engine that dies with the power."""

    def __init__(self, path: Path, disk: Disk, synchronous: str, seed: int) -> None:
        self.path, self.disk, self.synchronous = path, disk, synchronous
        self.random = random.Random(seed)
        self.clock = Clock()
        self.account = Account()
        self._starts = 0

    def live(self) -> None:
        """From one start to the next cut."""
        journal = Journal(self.path, driver=self.disk.driver(), synchronous=self.synchronous)
        try:
            self._check(journal)
            alone = EngineAlone(journal, self.clock)
            publishers = [alone.connect(f"p{n}") for n in range(PUBLISHERS)]
            consumer = alone.connect("consumer")
            alone.subscribe(consumer, WORK)
            # A checkpoint takes some thousand writes: cuts inside and after it, too.
            self.disk.cut_after = self.random.randrange(20, self.random.choice((150, 400, 1_200)))
            again = list(self.account.unanswered.values())
            while True:
                self._work(alone, publishers, consumer, again)
                again = []
                alone.engine.upkeep.tidy(now=self.random.random() < 0.02)
                if self.random.random() < 0.02:
                    alone.engine.upkeep.expire()
                    journal.checkpoint()
                if self.random.random() < 0.02:
                    self.disk.cut()
                    return
        except PowerCut:
            return
        finally:
            self.disk.abandon()
            journal.close()

    def _work(self, alone: EngineAlone, publishers: list[Peer], consumer: Peer,
              again: list[tuple[int, bytes, str]]) -> None:
        self.clock.pass_(0.01)
        sent: dict[tuple[bytes, int], list[tuple[bytes, str]]] = {}
        for who, body, session in again:
            rid = alone.publish(publishers[who], body)
            sent[publishers[who].routing, rid] = [(_id_in(body), session)]
        for who, publisher in enumerate(publishers):
            for _ in range(self.random.randrange(CALLS_MAX)):
                session = f"s{self.random.randrange(12)}"
                message_id = new_id(self.clock.wall_ms)
                kind = "reply.requested" if self.random.random() < WORK_SHARE else "message.received"
                text = "x" * self.random.randrange(200)
                body = envelope(publisher.name, session, message_id, kind, text)
                self.account.unanswered[message_id] = (who, body, session)
                sent[publisher.routing, alone.publish(publisher, body)] = [(message_id, session)]
        settled: dict[int, tuple[bytes, str]] = {}
        for offset, _seq, _count, body in alone.taken(consumer):
            effect = _effect_of(_id_in(body))
            session = f"effects-{self.random.randrange(4)}"
            rid = alone.ack(consumer, "work", [offset],
                            envelope("consumer", session, effect, kind="reply.delivered"))
            settled[rid] = (effect, session)
        alone.turn()
        for peer in publishers:
            for rid, answer in peer.receipts.items():
                for (message_id, session), (seq, _duplicate) in zip(sent[peer.routing, rid], answer, strict=True):
                    self.account.acknowledged[message_id] = (session, seq)
                    del self.account.unanswered[message_id]
            assert not peer.refusals
            peer.receipts.clear()
        for rid, answer in consumer.receipts.items():
            effect, session = settled[rid]
            self.account.acknowledged[effect] = (session, answer[0][0])
        consumer.receipts.clear()

    def _check(self, journal: Journal) -> None:
        """Hold the journal against the account."""
        db = journal._db
        self._starts += 1
        thorough = self._starts % THOROUGH_EVERY == 0
        if thorough:
            assert list(db.execute("PRAGMA quick_check")) == [("ok",)]
        names = dict(db.execute("SELECT no, name FROM sessions"))
        stored = {bytes(i): (names[s], seq) for i, s, seq in db.execute("SELECT id, session, seq FROM messages")}
        account = self.account
        for message_id, place in list(account.acknowledged.items()):
            if message_id not in stored:
                account.lost += 1
                del account.acknowledged[message_id]
            elif stored[message_id] != place:
                account.moved += 1
        seqs: dict[str, list[int]] = defaultdict(list)
        for session, seq in stored.values():
            seqs[session].append(seq)
        for given in seqs.values():
            assert sorted(given) == list(range(1, len(given) + 1)), "every session's seqs are dense"
        (offsets,) = db.execute("SELECT min(offset), max(offset), count(*) FROM messages")
        assert offsets[2] == 0 or offsets[1] - offsets[0] + 1 == offsets[2], "and so are the offsets"
        assert offsets[1] is None or journal.placed() <= offsets[1], "and the index over places knows of no other"
        if thorough:
            wrong = db.execute("SELECT count(*) FROM messages m LEFT JOIN places p USING (session, seq)"
                               " WHERE (m.offset <= ? OR p.offset IS NOT NULL) AND p.offset IS NOT m.offset",
                               (journal.placed(),))
            assert list(wrong) == [(0,)], "what it should know it knows rightly"
            self._check_groups(journal, stored)

    def _check_groups(self, journal: Journal, stored: dict[bytes, tuple[str, int]]) -> None:
        for no, _name, floor, _spec in journal.groups():
            beyond = journal.settled(no)
            parked = {item.offset for item in journal.parked(no)}
            requested = journal.kinds()["reply.requested"]
            for offset, message_id in journal._db.execute(
                "SELECT offset, id FROM messages WHERE kind = ?", (requested,)
            ):
                settled = (offset <= floor or offset in beyond) and offset not in parked
                if settled != (_effect_of(bytes(message_id)) in stored):
                    self.account.halves += 1


def _id_in(body: bytes) -> bytes:
    return decode(body).message_id


@cache
def _effect_of(cause: bytes) -> bytes:
    return derived_id(id_time(cause), cause, "effect")


def suffer(path: Path, synchronous: str, cuts: int) -> Account:
    """Live through so many cuts."""
    disk = Disk(seed=4)
    mesh = Mesh(path, disk, synchronous, seed=5)
    for _ in range(cuts):
        mesh.live()
        disk.power_on()
    journal = Journal(path, driver=disk.driver(), synchronous=synchronous)
    mesh._check(journal)
    assert list(journal._db.execute("PRAGMA integrity_check")) == [("ok",)]
    journal.close()
    return mesh.account


def test_fault02_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    account = suffer(tmp_path / "journal.db", "FULL", CUTS)
    told = len(account.acknowledged)
    print(f"\n{CUTS} cuts, {told} acknowledged rows, {account.lost} lost")
    assert told >= ROWS_MIN
    assert (account.lost, account.moved, account.halves) == (0, 0, 0)


def test_fault02_the_same_cuts_do_show_a_journal_that_does_not_sync(tmp_path: Path) -> None:
    account = suffer(tmp_path / "journal.db", "NORMAL", 12)
    assert account.lost > 0, "the test above can fail"
