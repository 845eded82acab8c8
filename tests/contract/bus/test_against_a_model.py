"""The broker's engine against a small model: publishes of every sort, repeats, fences, settlements, restarts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.engine_alone import Clock, EngineAlone, envelope

from microclaw.bus import journal, storing
from microclaw.bus.api import Subscription
from microclaw.bus.envelope import decode
from microclaw.bus.journal import Journal
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id

SESSIONS = st.sampled_from(["a", "b", "c"])
WORK = Subscription("work", ("reply.requested",), ack_wait_ms=10_000, max_deliver=3, backoff_ms=(0,), max_in_flight=4)


class TheBus(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # Hundreds of starts: in memory where there is such a disk, and with a log that is not written in advance.
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = Path(tempfile.mkdtemp(prefix="mc-model-", dir=memory))
        self.clock = Clock()
        #: What the model knows: the ids of each session in order, each id's text, and what is done with.
        self.order: dict[str, list[bytes]] = {"a": [], "b": [], "c": []}
        self.text: dict[bytes, tuple[str, str]] = {}
        self.settled: set[bytes] = set()
        self.start()

    def start(self) -> None:
        with mock.patch.object(journal, "PREWARM_BYTES", 0):
            self.journal = Journal(self.folder / "journal.db", synchronous="OFF")
        self.alone = EngineAlone(self.journal, self.clock)
        self.publisher, self.consumer = self.alone.connect("p"), self.alone.connect("c")
        self.sid = self.alone.subscribe(self.consumer, WORK)
        #: Offset → id of what the consumer holds.
        self.held: dict[int, bytes] = {}
        self.turn()

    def turn(self) -> None:
        self.alone.settle_down()
        for offset, seq, count, body in self.alone.taken(self.consumer):
            message = decode(body)
            session = self.order[message.session_id]
            assert session[seq - 1] == message.message_id
            assert offset not in self.held
            assert message.message_id not in self.settled, "settled is settled"
            assert all(earlier in self.settled for earlier in session[:seq - 1]), "one of a session, in its order"
            assert 1 <= count <= WORK.max_deliver
            self.held[offset] = message.message_id
        assert len(self.held) <= WORK.max_in_flight

    @rule(session=SESSIONS, texts=st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=4))
    def publish(self, session: str, texts: list[str]) -> None:
        ids = [new_id(self.clock.wall_ms) for _ in texts]
        rid = self.alone.publish(self.publisher, *(
            envelope("p", session, i, text=t) for i, t in zip(ids, texts, strict=True)))
        first = len(self.order[session]) + 1
        self.order[session] += ids
        self.text |= {i: (session, t) for i, t in zip(ids, texts, strict=True)}
        self.turn()
        assert self.publisher.receipts[rid] == [[first + n, False] for n in range(len(ids))]

    @precondition(lambda self: self.text)
    @rule(data=st.data(), fresh=st.booleans(), same=st.booleans())
    def publish_again(self, data: st.DataObject, fresh: bool, same: bool) -> None:
        known = data.draw(st.sampled_from(list(self.text)))
        session, text = self.text[known]
        items = [envelope("p", session, known, text=text if same else "another")]
        other = new_id(self.clock.wall_ms)
        if fresh:
            items.insert(0, envelope("p", session, other, text="x"))
        if fresh and same:
            self.order[session].append(other)
            self.text[other] = (session, "x")
        rid = self.alone.publish(self.publisher, *items)
        self.turn()
        if same:
            answer = [[self.order[session].index(known) + 1, True]]
            assert self.publisher.receipts[rid] == [[len(self.order[session]), False], *answer][1 - fresh:]
        else:
            assert self.publisher.refusals[rid][0] == "id_conflict", "and the fresh one with it"

    @rule(session=SESSIONS, off_by=st.integers(0, 2))
    def publish_fenced(self, session: str, off_by: int) -> None:
        message_id = new_id(self.clock.wall_ms)
        expected = len(self.order[session]) + off_by
        rid = self.alone.publish(self.publisher, [envelope("p", session, message_id, text="x"), 0, 0, expected])
        if not off_by:
            self.order[session].append(message_id)
            self.text[message_id] = (session, "x")
        self.turn()
        assert (rid in self.publisher.receipts) == (not off_by)
        assert off_by == 0 or self.publisher.refusals[rid][0] == "fenced"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), effect=st.booleans())
    def ack(self, data: st.DataObject, effect: bool) -> None:
        offset = data.draw(st.sampled_from(list(self.held)))
        self.settled.add(self.held.pop(offset))
        caused = new_id(self.clock.wall_ms)
        items = [envelope("c", "a", caused, text="effect")] if effect else []
        if effect:
            self.order["a"].append(caused)
        rid = self.alone.ack(self.consumer, "work", [offset], *items)
        self.clock.pass_(0.01)
        self.turn()
        assert rid in self.consumer.receipts

    @precondition(lambda self: self.held)
    @rule(data=st.data(), verb=st.sampled_from(["nack", "term"]))
    def give_back(self, data: st.DataObject, verb: str) -> None:
        offset = data.draw(st.sampled_from(list(self.held)))
        message_id = self.held.pop(offset)
        if verb == "nack":
            # Beyond max_deliver it is a dead letter, which is settled for the group.
            self.alone.say(self.consumer, Op.NACK, "work", offset, 0, "no")
        else:
            self.settled.add(message_id)
            self.alone.say(self.consumer, Op.TERM, "work", offset, "never")
        dead = self.dead()
        self.clock.pass_(0.01)
        self.alone.turn()
        if len(self.dead()) > len(dead):
            self.settled.add(message_id)
        self.turn()

    def dead(self) -> list[int]:
        (number,) = [group.no for group in self.alone.engine.groups.values()]
        return self.journal.dead_offsets(number)

    @rule()
    def fold(self) -> None:
        with mock.patch.object(storing, "FOLD_PLACES_MAX", 3):
            self.alone.engine.upkeep.tidy(now=True)

    @rule()
    def restart(self) -> None:
        self.clock.pass_(0.01)
        self.turn()
        self.journal.close()
        self.start()

    @invariant()
    def a_replay_gives_everything_in_order(self) -> None:
        for session, ids in self.order.items():
            after = len(ids) // 2
            rid = self.alone.replay(self.publisher, session, after)
            self.alone.turn()
            rows, last = self.publisher.replayed[rid]
            assert last == len(ids)
            assert [(seq, decode(body).message_id) for seq, body in rows] == list(enumerate(ids, 1))[after:]
        self.turn()

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestTheBus = TheBus.TestCase
TestTheBus.settings = settings(max_examples=20, stateful_step_count=30)
