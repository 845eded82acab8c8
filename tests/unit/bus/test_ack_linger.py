"""Acks alone wait a moment for a publish to share its fsync; nobody notices but the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from microclaw.bus.engine import ACK_LINGER_S, Client, Engine
from microclaw.bus.envelope import VERSION, Envelope, encode
from microclaw.bus.journal import Journal
from microclaw.bus.wire import PROTOCOL, Op
from microclaw.core.ids import new_id
from microclaw.core.rights import Rights


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[Engine]:
    journal = Journal(tmp_path / "journal.db")
    rights = Rights(publish=(">",), read=(">",))
    yield Engine(
        journal, monotonic=clock.monotonic, wall_ms=clock.wall_ms, retention_ms=10**9,
        rights=lambda _name, _pid: rights,
    )
    journal.close()


def hello(engine: Engine, name: str) -> Client:
    client = engine.hello(name.encode(), [Op.HELLO, PROTOCOL, name, name.encode()], 0)
    assert client is not None
    return client


def subscribe(engine: Engine, client: Client, group: str) -> None:
    engine.receive(client, [Op.SUBSCRIBE, 1, group, ["test.note"], "", 10, 30_000, 10, [0], "first", True])


def publish(engine: Engine, client: Client, session: str) -> None:
    body = encode(Envelope(
        v=VERSION, seq=0, ts_ms=1, source=client.name, device_id="", session_id=session, message_id=new_id(1),
        payload=msgspec.Raw(msgspec.msgpack.encode({"kind": "test.note"})),
    ))
    engine.receive(client, [Op.PUBLISH, 7, [body]])


def delivered(out: dict[bytes, list[list[object]]], name: str) -> list[int]:
    return [
        offset for operation in out.get(name.encode(), []) if operation[0] == Op.DELIVER
        for offset in operation[2]  # type: ignore[attr-defined]
    ]


def answered(out: dict[bytes, list[list[object]]], name: str) -> list[object]:
    return [operation[1] for operation in out.get(name.encode(), []) if operation[0] == Op.PUBLISH]


def test_an_ack_right_after_a_publish_is_answered_with_the_next_publish(engine: Engine, clock: Clock) -> None:
    maker, worker = hello(engine, "maker"), hello(engine, "worker")
    subscribe(engine, worker, "group")
    publish(engine, maker, "chat:1")
    (offset,) = delivered(engine.turn(), "worker")
    commits = engine.commits
    engine.receive(worker, [Op.ACK, 9, "group", [offset], []])
    assert answered(engine.turn(), "worker") == []
    assert engine.commits == commits, "no fsync for the ack alone"
    publish(engine, maker, "chat:1")
    assert answered(engine.turn(), "worker") == [9]
    assert engine.commits == commits + 1


def test_an_ack_that_no_publish_follows_is_settled_when_the_time_is_over(engine: Engine, clock: Clock) -> None:
    maker, worker = hello(engine, "maker"), hello(engine, "worker")
    subscribe(engine, worker, "group")
    publish(engine, maker, "chat:1")
    (offset,) = delivered(engine.turn(), "worker")
    engine.receive(worker, [Op.ACK, 9, "group", [offset], []])
    engine.turn()
    due = engine.next_due()
    assert due is not None
    assert clock.now < due <= clock.now + ACK_LINGER_S
    clock.now = due
    assert answered(engine.turn(), "worker") == [9]
    assert engine.groups["group"].floor == offset


def test_an_ack_counts_though_its_consumer_is_gone_before_it_is_settled(engine: Engine) -> None:
    maker, first, second = hello(engine, "maker"), hello(engine, "first"), hello(engine, "second")
    subscribe(engine, first, "group")
    publish(engine, maker, "chat:1")
    (offset,) = delivered(engine.turn(), "first")
    subscribe(engine, second, "group")
    engine.receive(first, [Op.ACK, 9, "group", [offset], []])
    engine.turn()
    engine.gone(b"first", clean=False)
    assert delivered(engine.turn(), "second") == []
    assert engine.groups["group"].floor == offset
