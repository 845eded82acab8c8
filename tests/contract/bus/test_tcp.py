"""AC-29, fault 22: the bus over tcp, with keys and only with keys."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
import zmq
from tests.broker_process import DEADLINE_S, OPEN_BUS, BrokerProcess

from microclaw.bus import admin
from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.client import connect as connect_to
from microclaw.bus.curve import KeyFileError, PeerKeys
from microclaw.bus.errors import BusTimeout, Refused
from microclaw.bus.wire import PROTOCOL, Op, decode_frame, encode_frame
from microclaw.core.kinds import ReplyRequested
from microclaw.core.requests import Done


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def broker(port):
    broker = BrokerProcess(config=f'[bus]\nlisten = "tcp://127.0.0.1:{port}"\n{OPEN_BUS}').start()
    yield broker
    broker.close()


async def key_for(owner: Bus, name: str, folder: Path) -> Path:
    made = await owner.request("broker", admin.AddPeer(name=name), admin.NewPeer)
    file = folder / f"{name}.key"
    file.touch(mode=0o600)
    file.write_text(json.dumps({field: getattr(made.keys, field) for field in ("name", "public", "secret", "broker")}))
    return file


def say(text: str) -> Draft:
    return Draft("s", ReplyRequested(chat="s", text=text))


async def test_a_peer_with_a_key_works_over_tcp_as_over_the_socket(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    peer = await connect_to(f"tcp://127.0.0.1:{port}", "desk", timeout_s=DEADLINE_S, key_file=key)
    await peer.publish(say("over tcp"))
    delivery = await asyncio.wait_for(
        anext(peer.subscribe(Subscription("g", ("reply.requested",)))), DEADLINE_S
    )
    assert (delivery.envelope.source, delivery.envelope.read(ReplyRequested).text) == ("desk", "over tcp")
    await peer.ack(delivery)
    await peer.close()


async def test_ac29_tcp_without_a_key_is_refused_before_a_byte_is_read(connect, port) -> None:
    await connect("cli")
    with pytest.raises(KeyFileError):
        await connect_to(f"tcp://127.0.0.1:{port}", "cli")
    context = zmq.Context()
    bare = context.socket(zmq.DEALER)
    bare.connect(f"tcp://127.0.0.1:{port}")
    bare.send(encode_frame([[Op.HELLO, PROTOCOL, "cli", b"x"]]))
    assert not await asyncio.to_thread(bare.poll, 1500), "silence"
    bare.close(linger=0)
    context.term()


async def test_ac29_an_unknown_key_is_refused(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    fields = json.loads(key.read_text())
    public, secret = zmq.curve_keypair()
    key.write_text(json.dumps(fields | {"public": public.decode(), "secret": secret.decode()}))
    with pytest.raises(BusTimeout):
        await connect_to(f"tcp://127.0.0.1:{port}", "desk", timeout_s=2, key_file=key)


async def test_ac31_a_key_is_good_for_its_own_name_only(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    with pytest.raises(Refused, match="that of desk"):
        await connect_to(f"tcp://127.0.0.1:{port}", "cli", timeout_s=DEADLINE_S, key_file=key)


async def test_ac31_a_peer_stays_who_its_key_says_when_it_greets_again(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    keys = PeerKeys.load(await key_for(owner, "desk", tmp_path))
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    keys.put_on(socket)
    socket.connect(f"tcp://127.0.0.1:{port}")

    async def told(answer: Op) -> None:
        assert await asyncio.to_thread(socket.poll, DEADLINE_S * 1000)
        assert decode_frame(socket.recv())[0][0] == answer

    try:
        socket.send(encode_frame([[Op.HELLO, PROTOCOL, "desk", b"x"]]))
        await told(Op.HELLO)
        # The first of these ends the connection as it was, the second is looked at like any newcomer's.
        for _ in range(2):
            socket.send(encode_frame([[Op.HELLO, PROTOCOL, "cli", b"x"]]))
        await told(Op.REFUSED)
    finally:
        socket.close()
    assert (await owner.request("broker", admin.BusInfoAsked(), admin.BusInfo)).clients == ("cli",)


async def test_ac10_a_removed_key_is_void_at_once_also_for_the_connection_that_is_open(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    peer = await connect_to(f"tcp://127.0.0.1:{port}", "desk", timeout_s=DEADLINE_S, key_file=key)
    await peer.publish(say("yes"))
    assert await owner.request("broker", admin.RemovePeer(name="desk"), Done) == Done()
    with pytest.raises(BusTimeout):
        await peer.publish(say("no"), timeout_s=2)
    await peer.close()


async def test_a_key_file_that_others_can_read_is_refused(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    key.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        await connect_to(f"tcp://127.0.0.1:{port}", "desk", key_file=key)


async def test_fault22_a_cut_connection_comes_back_and_loses_nothing(connect, port, tmp_path) -> None:
    owner = await connect("cli")
    key = await key_for(owner, "desk", tmp_path)
    live: set[asyncio.StreamWriter] = set()
    open_for_business = asyncio.Event()
    open_for_business.set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A cable that can be pulled."""
        if not open_for_business.is_set():
            writer.close()
            return
        there, here = await asyncio.open_connection("127.0.0.1", port)
        live.update((writer, here))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

        await asyncio.wait({asyncio.create_task(pump(reader, here)), asyncio.create_task(pump(there, writer))},
                           return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, here):
            live.discard(end)
            end.close()

    cable = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{cable.sockets[0].getsockname()[1]}"
    peer = await connect_to(address, "desk", timeout_s=DEADLINE_S, key_file=key)
    sent = 0
    for _ in range(3):
        for _ in range(20):
            await peer.publish(say(str(sent)))
            sent += 1
        open_for_business.clear()
        for writer in list(live):
            writer.transport.abort()
        late = asyncio.create_task(peer.publish(say(str(sent))))
        await asyncio.sleep(0.3)
        assert not late.done(), "the cable is out"
        open_for_business.set()
        (receipt,) = await asyncio.wait_for(late, DEADLINE_S)
        sent += 1
        assert receipt.seq == sent
    texts = []
    async with asyncio.timeout(DEADLINE_S):
        async for envelope in owner.replay("s", 0):
            texts.append(envelope.read(ReplyRequested).text)
            if len(texts) == sent:
                break
    assert texts == [str(n) for n in range(sent)]
    await peer.close()
    cable.close()
