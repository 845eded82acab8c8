"""Large bodies by reference: whole or not there, kept as long as a message that names them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path

import pytest
from tests.broker_process import DEADLINE_S, BrokerProcess
from tests.engine_alone import EngineAlone

from microclaw.bus import upkeep
from microclaw.bus.api import Draft
from microclaw.bus.blobs import GRACE_S, PART_BYTES_MAX, UPLOADS_MAX, BlobStore, handle_of
from microclaw.bus.errors import Refused
from microclaw.bus.journal import Journal
from microclaw.core.kinds import ReplyRequested


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def naming(handle: str, session: str = "s") -> Draft:
    return Draft(session, ReplyRequested(chat=session, text="see the attachment"), blobs=(handle,))


async def test_a_large_body_travels_by_its_handle(connect) -> None:
    one, other = await connect("one"), await connect("other")
    data = blob(5_000_000)
    handle = await one.put_blob(data)
    assert handle == f"sha256:{hashlib.sha256(data).hexdigest()}"
    await one.publish(naming(handle))
    assert await other.get_blob(handle) == data
    assert await one.put_blob(data) == handle, "again is the same"
    assert await one.put_blob(b"") == handle_of(b"")


async def test_many_large_bodies_are_had_at_once(connect) -> None:
    """More than a frame may hold, asked for side by side."""
    bus = await connect("one")
    data = [blob(PART_BYTES_MAX + 5_000, seed) for seed in range(UPLOADS_MAX + 4)]
    # Some have to wait.
    handles = await asyncio.gather(*(bus.put_blob(one) for one in data))
    assert await asyncio.wait_for(asyncio.gather(*map(bus.get_blob, handles)), DEADLINE_S) == data


async def test_a_message_cannot_name_a_blob_that_is_not_there(connect) -> None:
    bus = await connect("alpha")
    with pytest.raises(Refused, match="put it first"):
        await bus.publish(naming(handle_of(b"never put")))
    with pytest.raises(Refused):
        await bus.get_blob(handle_of(b"never put"))
    with pytest.raises(Refused):
        await bus.get_blob("sha256:../../journal.db")


async def test_a_blob_survives_a_broker_that_is_killed_while_it_comes_in(broker: BrokerProcess, connect) -> None:
    bus = await connect("alpha")
    data = blob(30_000_000, seed=2)
    putting = asyncio.create_task(bus.put_blob(data))
    for _ in range(3):
        await asyncio.sleep(0.05)
        broker.restart()
    handle = await asyncio.wait_for(putting, 60)
    broker.restart()
    assert await asyncio.wait_for(bus.get_blob(handle), DEADLINE_S) == data
    assert not list((broker.home.data / "blobs").glob("*.part"))


def test_a_blob_that_is_not_what_its_name_says_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    with pytest.raises(Refused, match="not what its name says"):
        store.put(b"me", handle_of(b"right"), 0, b"wrong", last=True)
    assert not store.has(handle_of(b"right"))
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_retention_deletes_a_blob_when_no_kept_message_names_it(tmp_path: Path) -> None:
    from microclaw.bus.engine import Engine
    from microclaw.bus.wire import PROTOCOL, Op
    from microclaw.core.rights import Rights

    now = [1_800_000_000.0]
    store = BlobStore(tmp_path / "blobs")
    everything = Rights(publish=(">",), read=(">",), supervised=False)
    engine = Engine(
        Journal(tmp_path / "journal.db"), monotonic=lambda: now[0], wall_ms=lambda: int(now[0] * 1000),
        retention_ms=10_000, rights=lambda _name, _pid: everything, blobs=store,
    )
    client = engine.hello(b"r", [Op.HELLO, PROTOCOL, "me", b"i"], 0)
    assert client is not None
    named, unnamed = b"named", b"unnamed"
    for data in (named, unnamed):
        engine.receive(client, [Op.BLOB_PUT, 1, handle_of(data), 0, data, True])
        os.utime(store.path(handle_of(data)), (now[0], now[0]))
    engine.receive(client, [Op.PUBLISH, 2, [[_body(), 0, 0, None, [handle_of(named)]]]])
    engine.turn()
    engine.upkeep.expire()
    assert store.has(handle_of(unnamed)), "it may still be named"
    now[0] += 9
    engine.upkeep.expire()
    assert store.has(handle_of(named))
    now[0] += GRACE_S + 1
    while engine.upkeep.expire():
        pass
    assert not store.has(handle_of(unnamed))
    assert not store.has(handle_of(named)), "its message is gone"


def test_retention_looks_at_a_bounded_number_of_blobs_at_once_and_at_all_of_them_in_the_end(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(upkeep, "EXPIRE_BLOBS_MAX", 10)
    store = BlobStore(tmp_path / "blobs")
    alone = EngineAlone(Journal(tmp_path / "journal.db"), blobs=store)
    handles = []
    for n in range(35):
        data = b"%d" % n
        handles.append(handle_of(data))
        store.put(b"me", handles[-1], 0, data, last=True)
        os.utime(store.path(handles[-1]), (0, 0))
    left = []
    for _ in range(5):
        alone.engine.upkeep.expire()
        left.append(sum(map(store.has, handles)))
    assert left == [25, 15, 5, 0, 0]


def _body() -> bytes:
    import msgspec

    from microclaw.bus.envelope import VERSION, Envelope, encode
    from microclaw.core.ids import new_id

    payload = msgspec.msgpack.encode(ReplyRequested(chat="s", text="x"))
    return encode(Envelope(v=VERSION, seq=0, ts_ms=1, source="me", device_id="", session_id="s", message_id=new_id(1),
                           payload=msgspec.Raw(payload)))
