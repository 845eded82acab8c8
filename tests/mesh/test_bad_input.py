"""What goes wrong is said in one line, with an exit status, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import msgpack
import zmq
from tests.mesh.harness import Mesh
from tests.mesh.traffic import SCRIPTED

from microclaw.bus.wire import PROTOCOL, Op, decode_frame, encode_frame
from microclaw.core.requests import Runs, RunsAsked


def test_pain14_a_bad_config_stops_before_anything_starts_and_names_the_nearest_key(tmp_path) -> None:
    mesh = Mesh(home=tmp_path)
    mesh.home.config.write_text("[assistant]\nnaem = 'Andy'\n")
    ended = mesh.cli("up", "-d")
    assert ended.returncode == 2
    assert "naem" in ended.stderr
    assert "did you mean name" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not mesh.orphans(wait_s=0)


async def test_garbage_on_the_bus_socket_is_answered_and_hurts_nobody() -> None:
    async with Mesh(SCRIPTED) as mesh:
        assert await mesh.answer("console:main", "before") == "echo: before"
        await asyncio.to_thread(_pester, mesh.home.bus)
        assert await mesh.answer("console:main", "after") == "echo: after"
        assert mesh.process("broker").state == "RUNNING"


def _pester(address: str) -> None:
    context = zmq.Context()
    hello = [Op.HELLO, PROTOCOL, "test", os.urandom(8)]
    envelope = {"v": 2, "seq": 0, "ts_ms": 1, "source": "test", "device_id": "", "session_id": "s",
                "message_id": bytes(16), "payload": {"kind": "x"}}
    for frames, code in (
        ([b"\xc1 not msgpack"], "malformed"),
        ([encode_frame([[Op.HELLO, 99, "test", b"x"]])], "version"),
        ([encode_frame([hello, [Op.PUBLISH, 7, [b"not an envelope"]]])], "malformed"),
        ([encode_frame([hello, [Op.PUBLISH, 7, [msgpack.packb(envelope)]]])], "version"),
        ([encode_frame([hello, [Op.PUBLISH, 7, [msgpack.packb(envelope | {"v": 1, "message_id": b"short"})]]])],
         "malformed"),
        ([encode_frame([hello, [Op.PUBLISH, 7, [bytes(2 << 20)]]])], "too_big"),
    ):
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        socket.send_multipart(frames)
        until = time.monotonic() + 20
        codes: list[str] = []
        while not codes:
            assert time.monotonic() < until, f"no answer to {code}"
            if socket.poll(1000):
                codes = [op[2] for op in decode_frame(socket.recv()) if op[0] == Op.REFUSED]
        assert codes == [code]
        socket.close(linger=0)
    # A frame over the limit is cut off by libzmq itself.
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    socket.send(bytes(20 << 20))
    socket.close(linger=0)
    context.term()


async def test_a_missing_engine_is_told_with_its_remedy_and_the_message_is_kept() -> None:
    async with Mesh('[sandbox]\nbackend = "podman"\n', env={"DOCKER_HOST": "unix:///nowhere.sock",
                                                           "CONTAINER_HOST": "unix:///nowhere.sock"}) as mesh:
        notice = await mesh.answer("console:main", "hello?")
        assert "sandbox" in notice.lower()
        assert "podman" in mesh.cli("status").stdout, "status says what is wrong"
        doctor = mesh.cli("doctor")
        assert doctor.returncode == 5
        assert "podman" in (doctor.stdout + doctor.stderr).lower()


async def test_status_says_which_service_is_down_and_since_when() -> None:
    async with Mesh(SCRIPTED) as mesh:
        assert mesh.cli("status").returncode == 0
        assert mesh.cli("stop", "scheduler").returncode == 0
        status = mesh.cli("status")
        assert status.returncode == 5
        line = next(line for line in status.stdout.splitlines() if line.startswith("scheduler"))
        assert "stopped" in line
        assert "down" in line, "and since when"
        assert mesh.cli("start", "scheduler").returncode == 0


async def test_a_run_that_failed_for_good_leaves_a_notice_and_shows_in_status() -> None:
    async with Mesh(SCRIPTED) as mesh:
        notice = await mesh.answer("console:main", "#!fail bad_request the model says no")
        assert notice
        assert "Traceback" not in notice
        failed = (await mesh.ask(RunsAsked(), Runs)).failed
        assert [row.group for row in failed] == ["main"]
        status = mesh.cli("status").stdout
        assert "main" in status
        assert "failed" in status.lower()
        assert "the model says no" in status


def test_commands_without_a_running_mesh_say_so_and_exit_3(tmp_path) -> None:
    mesh = Mesh(home=tmp_path)
    for command in (("status",), ("agent", "-m", "hi"), ("restart", "router"), ("groups", "list")):
        ended = mesh.cli(*command)
        assert ended.returncode == 3, (command, ended.stderr)
        assert "microclaw up" in ended.stderr


async def test_a_service_that_hangs_is_named_by_whoever_waits_for_it(mesh: Mesh) -> None:
    os.kill(mesh.pid("queue"), signal.SIGSTOP)
    try:
        ended = await asyncio.to_thread(mesh.cli, "runs", "list")
    finally:
        os.kill(mesh.pid("queue"), signal.SIGCONT)
    assert ended.returncode == 5
    assert ended.stderr.startswith("microclaw: queue did not answer within 10 s;"), ended.stderr
    assert ended.stderr.count("\n") == 1
