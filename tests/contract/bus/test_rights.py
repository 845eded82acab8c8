"""AC-29…31: who may say what."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from tests.broker_process import DEADLINE_S, BrokerProcess

from microclaw.bus.api import Draft, Subscription
from microclaw.bus.client import connect as connect_to
from microclaw.bus.errors import Refused
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


async def test_ac30_a_connector_publishes_only_its_kinds_in_its_own_chats(connect) -> None:
    console = await connect("console")
    await console.publish(Draft("console:main", received("console:main")))
    for draft in (
        Draft("telegram:1", received("telegram:1")),
        Draft("console:main", ReplyRequested(chat="console:main", text="forged")),
    ):
        with pytest.raises(Refused) as refused:
            await console.publish(draft)
        assert refused.value.code == "denied"


async def test_ac30_a_connector_reads_only_replies_and_asks_no_other_service(connect) -> None:
    console = await connect("console")
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.subscribe(Subscription("spy", ("message.received",)))), DEADLINE_S)
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.subscribe(Subscription("spy", (">",)))), DEADLINE_S)
    with pytest.raises(Refused):
        await console.request("scheduler", StatusAsked(), Done)
    with pytest.raises(Refused):
        await asyncio.wait_for(anext(console.replay("telegram:1", 0)), DEADLINE_S)


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


async def test_what_was_denied_is_in_the_audit(connect) -> None:
    console, owner = await connect("console"), await connect("cli")
    with pytest.raises(Refused):
        await console.publish(Draft("telegram:1", received("telegram:1")))
    envelope = await asyncio.wait_for(anext(owner.replay("audit", 0)), DEADLINE_S)
    entry = envelope.read(AuditEntry)
    assert (envelope.source, entry.actor, entry.outcome) == ("broker", "console", "deny")
    assert "telegram:1" in entry.detail


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
