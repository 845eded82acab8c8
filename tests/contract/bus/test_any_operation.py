"""Fault 15: whatever a client says, the engine takes it, refuses it or calls it garbage, and serves the others."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine_alone import EngineAlone, envelope

from microclaw.broker.admin import Administration
from microclaw.broker.serve import GARBAGE
from microclaw.bus import journal
from microclaw.bus.api import Subscription
from microclaw.bus.blobs import BlobStore, handle_of
from microclaw.bus.envelope import decode
from microclaw.bus.journal import Journal
from microclaw.bus.wire import Op, decode_frame, encode_frame
from microclaw.core.ids import new_id

WORK = Subscription("work", ("reply.requested",), backoff_ms=(0,), max_deliver=9, ack_wait_ms=5_000)
BLOB = b"a blob"
IDS = [new_id(1) for _ in range(4)]

numbers = st.sampled_from([
    -(1 << 63), -1, 0, 1, 2, 3, 4, 5, 7, 60, 1_000, 86_400_001, 1 << 31, (1 << 62) - 1, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, 0.5, 1.0, -1.5, 1e300, float("inf"), float("nan"), True,
])
TEXTS = [
    "", "work", "other", "s", "p", "c", "broker", "reply.requested", ">", "*", "a.>.b", "first", "new", "\0", "x" * 300,
    "y" * 1_100_000, handle_of(BLOB), "sha256:" + "0" * 64, "sha256:../x",
]
texts = st.integers(0, len(TEXTS) - 1).map(lambda number: TEXTS[number])
envelopes = st.builds(envelope, st.sampled_from(["odd", "p"]), st.sampled_from(["s", "t"]), st.sampled_from(IDS),
                      st.sampled_from(["reply.requested", "other.kind"]), st.sampled_from(["x", "y"]))
questions = st.builds(
    lambda tag, fields: msgspec.msgpack.encode({"kind": tag} | fields),
    st.sampled_from(["status", "bus.info", "bus.groups", "bus.sessions", "bus.tail", "bus.dead", "bus.dead.settle",
                     "bus.groups.drop", "bus.metrics", "bus.job", "bus.peers"]),
    st.dictionaries(
        st.sampled_from(["group", "offset", "action", "limit", "after", "after_ms", "kinds", "prefix", "name", "x"]),
        numbers | texts | st.sampled_from(["requeue", "drop", ["reply.*"]]),
    ),
)
blobs = st.sampled_from([b"", b"\xc1", b"\x91" * 5_000 + b"\0", BLOB, b"x" * 20])
plain = numbers | texts | envelopes | questions | blobs | st.none()
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=2), max_leaves=6
)
special = st.tuples(
    envelopes, numbers | st.none(), numbers | st.none(), numbers | st.none() | st.sampled_from(["", []]),
    st.lists(texts, max_size=2),
).map(list)
items = st.lists(envelopes | special | anything, max_size=3)
some = st.lists(numbers, max_size=3)
#: What is meant, so that much of it gets past the first look …
MEANT = {
    Op.PUBLISH: (numbers, items), Op.PUBLISH_EACH: (numbers, items), Op.ACK: (numbers, texts, some, items),
    Op.NACK: (texts, numbers, numbers | st.none(), texts), Op.TERM: (texts, numbers, texts),
    Op.PROGRESS: (texts, numbers), Op.UNSUBSCRIBE: (numbers,), Op.REPLAY: (numbers, texts, numbers, numbers, numbers),
    Op.SUBSCRIBE: (numbers, texts, st.lists(texts, max_size=2), texts, numbers, numbers, numbers, some, texts, some),
    Op.REQUEST: (numbers, texts, numbers, questions | blobs), Op.ANSWER: (numbers, blobs), Op.SERVE: (), Op.PING: (),
    Op.BLOB_PUT: (numbers, texts, numbers, blobs, numbers), Op.BLOB_GET: (numbers, texts, numbers),
}


@st.composite
def operations(draw: st.DrawFn) -> list[Any]:
    op = draw(st.sampled_from(list(MEANT)))
    fields = [draw(field) for field in MEANT[op]]
    # … and with one of them anything at all, or one missing, or one more.
    if fields and draw(st.booleans()):
        fields[draw(st.integers(0, len(fields) - 1))] = draw(anything)
    if draw(st.integers(0, 19)) == 0:
        fields = fields[:-1] if draw(st.booleans()) else [*fields, draw(anything)]
    return [int(op), *fields]


class Crowd:
    """An engine with a publisher and a consumer who behave, and one who does not."""

    def __init__(self, folder: Path) -> None:
        with mock.patch.object(journal, "PREWARM_BYTES", 0):
            self.journal = Journal(folder / "journal.db", synchronous="OFF")
        self.alone = EngineAlone(self.journal, blobs=BlobStore(folder / "blobs"))
        ring = SimpleNamespace(names=list)
        own = Administration(self.alone.engine, 1, ring, "", lambda _name: True)  # type: ignore[arg-type]
        self.alone.engine.own = lambda body, may_administer: own.answer(body, may_administer=True)
        self.publisher, self.consumer, self.odd = (self.alone.connect(name) for name in ("p", "c", "odd"))
        self.alone.subscribe(self.consumer, WORK)
        self.got: set[bytes] = set()
        self.put = 0

    def odd_says(self, operation: list[Any]) -> None:
        """As the server has it: what is garbage costs the connection."""
        engine = self.alone.engine
        client = engine.clients.get(self.odd.routing)
        try:
            # As it comes out of a frame.
            (operation,) = decode_frame(encode_frame([operation]))
            if client is not None:
                engine.receive(client, operation)
        except GARBAGE:
            engine.gone(self.odd.routing, clean=False)
            self.odd = self.alone.connect("odd")

    def turn(self) -> None:
        for told in self.alone.engine.turn().items():
            encode_frame(told[1])
            self.hear(*told)

    def hear(self, routing: bytes, told: list[list[Any]]) -> None:
        if routing == self.consumer.routing:
            for operation in told:
                if operation[0] == Op.DELIVER:
                    self.got |= {decode(body).message_id for body in operation[5]}
                    self.alone.ack(self.consumer, "work", operation[2])

    def publishes(self) -> bytes:
        self.put += 1
        message_id = new_id(1)
        self.alone.publish(self.publisher, envelope("p", f"own{self.put}", message_id))
        return message_id


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(said=st.lists(operations(), min_size=1, max_size=12))
def test_fault15_whatever_one_client_says_the_others_are_served(said: list[list[Any]]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mc-odd-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        crowd = Crowd(folder)
        crowd.publishes()
        crowd.turn()
        wants = crowd.alone.engine.groups["work"].wanted
        for operation in said:
            crowd.odd_says(operation)
            crowd.turn()
            crowd.alone.clock.pass_(0.1)
        wanted = crowd.publishes()
        engine = crowd.alone.engine
        # Whoever joined the group may hold something for a while, and may have asked for less of it.
        engine.gone(crowd.odd.routing, clean=False)
        spoiled = "work" not in engine.groups or engine.groups["work"].wanted != wants
        for _ in range(40):
            crowd.turn()
            crowd.alone.clock.pass_(1)
        assert spoiled or wanted in crowd.got
        crowd.alone.settle_down(50)
        crowd.journal.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)




@pytest.mark.parametrize("operation", [
    [Op.NACK, "work", 1, 0, b"x"], [Op.NACK, "work", 1, "x", "e"], [Op.NACK, "work", 1.0, 0, "e"],
    [Op.NACK, "work", 1, 50.5, "e"], [Op.NACK, "work", 1, float("nan"), "e"], [Op.TERM, "work", 1, b"x"],
    [Op.TERM, "work", 1, None], [Op.TERM, "work", True, ""], [Op.PROGRESS, "work", 1.0],
    [Op.SUBSCRIBE, 9, None, ["reply.requested"], "", 1, 1_000, 3, [0], "first", True],
    [Op.SUBSCRIBE, 9, b"g", ["reply.requested"], "", 1, 1_000, 3, [0], "first", True],
    [Op.SUBSCRIBE, 9, 1 << 63, ["reply.requested"], "", 1, 1_000, 3, [0], "first", True],
    [Op.REQUEST, 1, "broker", 1_000, 5], [Op.REQUEST, 1, "c", float("nan"), b""],
    [Op.REQUEST, 1, "broker", 1_000, b"\x82\xa4kind\xa8bus.info\xa1x" + b"\x91" * 5_000 + b"\0"],
    [Op.PUBLISH, 1, [[envelope("odd", "s", IDS[0]), 0, 0, ""]]], [Op.BLOB_GET, 1, handle_of(BLOB), -1],
    [Op.PUBLISH, 1, [envelope("odd", "s", IDS[0])], "work", [1]],
])
def test_fault15_a_field_of_another_type_is_garbage_before_it_changes_anything(
    tmp_path: Path, operation: list[Any]
) -> None:
    crowd = Crowd(tmp_path)
    crowd.alone.engine.blobs.put(b"", handle_of(BLOB), 0, BLOB, last=True)  # type: ignore[union-attr]
    crowd.publishes()
    crowd.alone.turn()
    ((offset, *_),) = crowd.alone.taken(crowd.consumer)
    crowd.odd_says(operation)
    crowd.alone.clock.pass_(1)
    crowd.alone.settle_down()
    crowd.alone.ack(crowd.consumer, "work", [offset])
    wanted = crowd.publishes()
    for _ in range(3):
        crowd.turn()
        crowd.alone.clock.pass_(1)
    assert wanted in crowd.got
    crowd.journal.close()


def test_fault15_what_is_denied_may_be_of_any_length(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)
    crowd.alone.engine.denied("odd", "replay", "y" * 3_000_000)
    crowd.alone.settle_down()
    assert crowd.journal.session("audit") is not None
    crowd.journal.close()


def test_fault15_a_second_subscription_of_the_same_number_is_none(tmp_path: Path) -> None:
    """It would stand in the group beside the first, and be given messages, after its client has gone."""
    crowd = Crowd(tmp_path)
    for _ in range(2):
        crowd.odd_says([Op.SUBSCRIBE, 9, "work", ["reply.requested"], "", 1, 1_000, 3, [0], "first", True])
    assert [one.client for one in crowd.alone.engine.groups["work"].subscribers] == [crowd.consumer.routing]
    crowd.journal.close()
