"""Doors: the socket is the identity, and it outlives this service."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
from tests.contract.egress.through_door import call, connect, gate, until

from microclaw.egress.doors import SOCKET_PATH_BYTES_MAX, DoorError

GET = b"GET /nowhere HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n"


async def test_a_door_is_open_to_every_user_id_and_its_parent_to_none(home):
    async with gate(home, backend="local") as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert door == home.run / "egress" / "w1"
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (door.parent, door, door / "egress.sock")]
        assert modes == [0o700, 0o755, 0o666]
        assert os.listdir(door) == ["egress.sock"]
        assert (await call(door, GET)).startswith(b"HTTP/1.1 404")


async def test_the_same_worker_gets_the_same_door_and_no_other_groups(home):
    async with gate(home, backend="local") as egress:
        first = await egress.doors.open("w1", "home", now_ms=1)
        assert await egress.doors.open("w1", "home", now_ms=2) == first
        with pytest.raises(DoorError, match="has a door as group home"):
            await egress.doors.open("w1", "work", now_ms=2)
        for name in ("", "../x", "A", "a" * 41, "w/1"):
            with pytest.raises(DoorError):
                await egress.doors.open(name, "home", now_ms=1)


async def test_a_door_bound_again_after_the_service_died_is_the_same(home):
    async with gate(home, backend="local") as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        folder = os.open(door, os.O_PATH)
        # As a kill leaves it: the socket file is there and nobody listens.
    left = door / "egress.sock"
    left.unlink(missing_ok=True)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(left))
    dead.close()
    (home.run / "egress" / "stale").mkdir()
    with pytest.raises(ConnectionRefusedError):
        await connect(door)
    async with gate(home, backend="local") as egress:
        assert len(egress.doors) == 1
        # Through the folder as it was mounted before: a directory mount follows.
        inside = f"/proc/self/fd/{folder}" if os.path.exists("/proc/self/fd") else str(door)
        assert (await call(Path(inside), GET)).startswith(b"HTTP/1.1 404")
        assert not (home.run / "egress" / "stale").exists()
    os.close(folder)


async def test_closing_a_door_ends_its_connections_and_forgets_it(home):
    async with gate(home, backend="local") as egress:
        doors = [await egress.doors.open(f"w{number}", "home", now_ms=1) for number in range(3)]
        reader, writer = await connect(doors[0])
        await until(lambda: egress.connections.open == 1)
        assert await egress.doors.close(("w0",)) == 1
        assert await reader.read() == b""
        assert not doors[0].exists() and doors[1].exists()
        assert await egress.doors.close(("w1",), keep_only=True) == 1
        assert [door.exists() for door in doors] == [False, True, False]
        writer.close()
    async with gate(home, backend="local") as egress:
        assert len(egress.doors) == 1


async def test_the_service_stops_at_once_whatever_its_visitors_do(home):
    async with gate(home, backend="local") as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        idle = await connect(door)
        halfway = await connect(door)
        halfway[1].write(b"POST /llm/v1/messages HTTP/1.1\r\n")
        await until(lambda: egress.connections.open == 2)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    for _, writer in (idle, halfway):
        writer.close()


async def test_what_is_refused_is_told_even_while_the_worker_still_sends(home):
    async with gate(home, backend="local") as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        got = await call(door, b"POST /nowhere HTTP/1.1\r\nHost: e\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
        assert got.startswith(b"HTTP/1.1 404") and got.endswith(b"}")


async def test_a_long_worker_name_still_fits_into_a_sockets_path(home):
    async with gate(home, backend="local") as egress:
        egress.doors._folder = home.run / ("d" * 20) / "egress"
        door = await egress.doors.open("w" * 40, "home", now_ms=1)
        assert len(bytes(door / "egress.sock")) <= SOCKET_PATH_BYTES_MAX
        assert (await call(door, GET)).startswith(b"HTTP/1.1 404")
