"""AC-29…32, 36: who may say what, and what of it is kept."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys

import msgspec
import pytest
from tests.broker_process import DEADLINE_S, BrokerProcess
from tests.contract.bus.raw_client import Raw

from microclaw.bus import admin
from microclaw.bus.api import Draft, Subscription
from microclaw.bus.client import connect as connect_to
from microclaw.bus.envelope import encode_new
from microclaw.bus.errors import Refused
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id
from microclaw.core.kinds import AuditEntry, MessageReceived, ReplyRequested
from microclaw.core.requests import Done, StatusAsked

STRICT = "[assistant]\nname = 'Andy'\n"


@pytest.fixture
def broker():
    broker = BrokerProcess(config=STRICT).start()
    yield broker
    broker.close()


def received(chat: str) -> MessageReceived:
    return MessageReceived(chat=chat, platform_id="1", sender="s", sender_name="S", text="t", sent_ms=1)


async def test_ac30_ac31_fault23_a_connector_publishes_only_its_kinds_in_its_own_chats(connect) -> None:
    console = await connect("console")
    await console.publish(Draft("console:main", received("console:main")))
    for draft in (
        Draft("telegram:1", received("telegram:1")),
        Draft("console:main", ReplyRequested(chat="console:main", text="forged")),
    ):
        with pytest.raises(Refused) as refused:
            await console.publish(draft)
        assert refused.value.code == "denied"


async def test_ac30_fault23_a_connector_reads_only_replies_and_asks_no_other_service(connect) -> None:
    console = await connect("console")
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.subscribe(Subscription("spy", ("message.received",)))), DEADLINE_S)
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.subscribe(Subscription("spy", (">",)))), DEADLINE_S)
    with pytest.raises(Refused):
        await console.request("scheduler", StatusAsked(), Done)
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.replay("telegram:1", 0)), DEADLINE_S)


async def test_ac30_a_connector_settles_joins_and_changes_no_group_of_what_it_may_not_read(connect, broker) -> None:
    owner, console = await connect("cli"), await connect("console")
    wants = Subscription("router", ("message.received",))
    stream = owner.subscribe(wants)
    for chat in ("console:a", "console:b"):
        await console.publish(Draft(chat, received(chat)))
    held = [await asyncio.wait_for(anext(stream), DEADLINE_S) for _ in range(2)]
    raw = Raw(broker.home.bus, "console")
    offsets = [delivery.token.offset for delivery in held]
    raw.send([[Op.SUBSCRIBE, 1, "router", ["reply.requested"], "", 9, 30_000, 9, [0], "first", True]])
    assert raw.receive()[0][:3] == [Op.REFUSED, 1, "denied"]
    raw.send([[Op.ACK, 2, "router", [*offsets, 99], []], [Op.TERM, "router", offsets[0], "never"],
              [Op.NACK, "router", offsets[1], 0, "later"], [Op.PING]])
    told = raw.receive()
    assert [Op.REFUSED, 2, "denied"] in [operation[:3] for operation in told]
    raw.close()
    found = (await owner.request("broker", admin.GroupsOfBusAsked(name="router"), admin.GroupsOfBus)).groups[0]
    assert (found.kinds, found.waiting, found.in_flight, found.dead) == (wants.kinds, 2, 2, 0)


async def test_who_made_a_group_may_use_it_though_it_may_no_longer_read_all_that_it_read(connect, broker) -> None:
    """As after an update that takes a kind from a service."""
    wants = Subscription("g", ("reply.requested",))
    console = await connect("console")
    console.subscribe(wants)
    await console.publish(Draft("console:x", received("console:x")))
    await console.close()
    broker.kill()
    db = sqlite3.connect(broker.home.data / "journal.db")
    ((spec,),) = db.execute("SELECT spec FROM groups")
    kinds, *rest = msgspec.msgpack.decode(spec)
    db.execute("UPDATE groups SET spec = ?", (msgspec.msgpack.encode([[*kinds, "message.received"], *rest]),))
    db.commit()
    db.close()
    broker.start()
    telegram, console, owner = await connect("telegram"), await connect("console"), await connect("cli")
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(telegram.subscribe(wants)), DEADLINE_S)
    console.subscribe(wants)
    await console.publish(Draft("console:y", received("console:y")))
    (found,) = (await owner.request("broker", admin.GroupsOfBusAsked(), admin.GroupsOfBus)).groups
    assert (found.consumers, found.kinds) == (("console",), wants.kinds)


async def test_a_name_without_rights_is_refused_and_told_how_to_get_some(broker) -> None:
    with pytest.raises(Refused, match=r"\[bus.rights.matrix\]"):
        await connect_to(broker.home.bus, "matrix", timeout_s=DEADLINE_S)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the parent of a process is seen in /proc only")
def test_ac29_a_process_outside_the_mesh_cannot_take_a_services_name(broker) -> None:
    program = (
        "import asyncio, sys\nfrom microclaw.bus.client import connect\n"
        "async def main():\n    await connect(sys.argv[1], sys.argv[2], timeout_s=20)\n    print('in')\n"
        "asyncio.run(main())\n"
    )
    # A grandchild: its parent is not the broker's.
    shell = 'import subprocess, sys; sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)'
    ended = subprocess.run(
        [sys.executable, "-c", shell, program, broker.home.bus, "router"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert "is the name of a service" in ended.stderr
    assert "in\n" not in ended.stdout


async def test_fault23_what_was_denied_is_in_the_audit(connect) -> None:
    console, owner = await connect("console"), await connect("cli")
    with pytest.raises(Refused):
        await console.publish(Draft("telegram:1", received("telegram:1")))
    envelope = await asyncio.wait_for(anext(owner.replay("audit", 0)), DEADLINE_S)
    entry = envelope.read(AuditEntry)
    assert (envelope.source, entry.actor, entry.outcome) == ("broker", "console", "deny")
    assert "telegram:1" in entry.detail


@pytest.mark.parametrize("forged", [
    {"source": "router"}, {"session_id": "telegram:1"}, {"source": ""}, {"device_id": "6f1c"}, {"device_id": "main"},
])
async def test_ac31_fault23_a_forged_source_session_or_device_is_refused_by_the_broker_itself(
    connect, broker, forged
) -> None:
    # Past our own client, which would not say such a thing.
    await connect("cli")
    raw = Raw(broker.home.bus, "console")
    fields = msgspec.msgpack.decode(encode_new(1, "console", "", "console:main", new_id(1), received("console:main")))
    raw.send([[Op.PUBLISH_EACH, 7, [msgspec.msgpack.encode(fields | forged), msgspec.msgpack.encode(fields)]]])
    told = raw.receive()
    while len(told) < 2:
        told += raw.receive()
    refusal, receipt = sorted(told, key=lambda operation: operation[0])
    assert refusal[:2] == [Op.REFUSED, 7]
    assert refusal[2] == ("denied" if any(forged.values()) else "malformed")
    assert receipt == [Op.PUBLISH_EACH, 8, [1]], "and the true one beside it is taken"
    raw.close()


async def test_ac31_a_device_is_spoken_of_in_its_own_sessions_alone(connect, broker) -> None:
    owner = await connect("cli")
    said = ReplyRequested(chat="device:6f1c", text="hi")
    for session in ("device:6f1c", "device:6f1c:screen"):
        await owner.publish(Draft(session, said, device_id="6f1c"))
    for session in ("device:6f1", "device:6f1c2", "device", "console:6f1c", "x:device:6f1c"):
        with pytest.raises(Refused, match="may not speak of device 6f1c"):
            await owner.publish(Draft(session, said, device_id="6f1c"))


async def test_ac32_a_seq_that_jumps_a_doubled_id_and_a_foreign_version_have_defined_answers(connect, broker) -> None:
    owner = await connect("cli")
    raw = Raw(broker.home.bus, "console")
    fields = msgspec.msgpack.decode(encode_new(1, "console", "", "console:main", new_id(1), received("console:main")))
    for change, answer in (
        ({"seq": 77}, [Op.PUBLISH, 1, [1]]), ({}, [Op.PUBLISH, 1, [-1]]), ({"v": 0}, [Op.REFUSED, 1, "version"]),
        ({"v": 9}, [Op.REFUSED, 1, "version"]), ({"ts_ms": 2}, [Op.PUBLISH, 1, [-1]]),
    ):
        raw.send([[Op.PUBLISH, 1, [msgspec.msgpack.encode(fields | change)]]])
        assert raw.receive()[0][:3] == answer, change
    raw.close()
    envelope = await asyncio.wait_for(anext(owner.replay("console:main", 0)), DEADLINE_S)
    assert envelope.seq == 1, "the broker's own, whatever the sender says"


async def test_ac36_the_journal_and_the_log_never_hold_a_key_of_the_bus(connect, broker) -> None:
    owner = await connect("cli")
    made = await owner.request("broker", admin.AddPeer(name="router"), admin.NewPeer)
    with pytest.raises(Refused):
        await (await connect("console")).publish(Draft("telegram:1", received("telegram:1")))
    await owner.request("broker", admin.RemovePeer(name="router"), Done)
    broker.kill()
    held = b"".join(file.read_bytes() for file in [*broker.home.data.glob("journal*"), broker.home.logs / "broker.log"])
    assert b"telegram:1" in held, "these are the files"
    server = [file.read_text().strip() for file in (broker.home.data / "bus-keys").rglob("*") if file.is_file()]
    for secret in (made.keys.secret, *server):
        assert secret.encode() not in held


async def test_ac29_the_socket_is_the_owners_alone(broker, connect) -> None:
    await connect("console")
    path = broker.home.run / "bus.sock"
    assert path.stat().st_mode & 0o077 == 0
    assert broker.home.run.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
async def test_ac29_another_user_is_refused_by_the_kernels_word_even_with_the_socket_open(broker, connect) -> None:
    await connect("console")
    for path in (broker.root, broker.home.run, broker.home.run / "bus.sock"):
        path.chmod(0o777)
    program = (
        "import os, sys, zmq\nos.setuid(65534)\ns = zmq.Context().socket(zmq.DEALER)\ns.connect(sys.argv[1])\n"
        "from microclaw.bus.wire import *\ns.send(encode_frame([[Op.HELLO, PROTOCOL, 'cli', b'x']]))\n"
        "print(decode_frame(s.recv()) if s.poll(15000) else 'silence')\n"
    )
    # The interpreter itself may not be readable for that user: import first, then become it.
    program = "import zmq, microclaw.bus.wire\n" + program
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, broker.home.bus], capture_output=True, text=True, timeout=60
    )
    assert "may not use this bus" in ended.stdout, ended
