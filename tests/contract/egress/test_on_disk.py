"""What has to be on disk before something is told, while the disk is slow, full, or egress is killed."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import ProgrammingError
from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.test_approvals import code_in
from tests.contract.egress.test_proxy import connecting, echo, get_through
from tests.contract.egress.test_stress import egress_process
from tests.contract.egress.through_door import KEY, call, connect, gate, post, read_request

from microclaw.core.errors import UnhealthyError
from microclaw.core.model_usage import Usage
from microclaw.egress.database import Database
from microclaw.store import engine
from microclaw.store.heads import HEADS

#: Generous: the machine may be busy.
WAIT_S_MAX = 30
NOT_AUDITED = b"GET /nowhere HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n"


@pytest.fixture
def disk(home, monkeypatch) -> Iterator[Disk]:
    monkeypatch.setattr(engine, "BUSY_MS", WAIT_S_MAX * 1000)
    made = Disk(home.database("egress"))
    yield made
    made.go_on()


class Disk:
    """Lets no commit to egress.db through while it is held up: the lock of another connection, in a disk's place."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, isolation_level=None)

    def hold_up(self) -> None:
        self._other.execute("BEGIN IMMEDIATE")

    def go_on(self) -> None:
        with suppress(sqlite3.OperationalError):  # it was not held up
            self._other.execute("ROLLBACK")


@contextmanager
def commits() -> Iterator[list[None]]:
    """One item for each commit."""
    counted: list[None] = []

    def count(_connection) -> None:
        counted.append(None)

    event.listen(Engine, "commit", count)
    try:
        yield counted
    finally:
        event.remove(Engine, "commit", count)


async def test_a_slow_disk_holds_up_what_waits_for_it_and_nothing_else(home, upstream, disk):
    more, last = asyncio.Event(), asyncio.Event()

    async def server(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()
        writer.write(b"data: 2\n\n")
        await last.wait()
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    async with gate(home, base_url=f"http://127.0.0.1:{await upstream(server)}") as egress:
        egress.secrets.set("llm", KEY)
        door = await egress.doors.open("w1", "home", now_ms=1)
        other = await egress.doors.open("w2", "home", now_ms=1)
        reader, writer = await connect(door)
        writer.write(post("/llm/v1/chat/completions", b"{}"))
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), WAIT_S_MAX)

        disk.hold_up()
        denied = asyncio.create_task(call(other, connecting("127.0.0.1:443"), timeout_s=WAIT_S_MAX))
        more.set()
        await asyncio.wait_for(reader.readuntil(b"data: 2\n\n"), WAIT_S_MAX)
        assert b"404" in await call(other, NOT_AUDITED, timeout_s=WAIT_S_MAX)
        last.set()
        ended = asyncio.create_task(reader.read())
        assert not (await asyncio.wait({denied, ended}, timeout=0.3))[0], "neither was written down yet"

        disk.go_on()
        assert (await denied).startswith(b"HTTP/1.1 400")
        assert b"data: [DONE]" in await asyncio.wait_for(ended, WAIT_S_MAX)
        written = {(entry.action, entry.outcome) for entry in await egress.audit.tail(9)}
        assert written == {("egress.connect", "deny"), ("model.call", "200")}
        assert [row.calls for row in await egress.meter.rows()] == [1]
        writer.close()


async def test_entries_that_come_while_others_are_written_share_the_next_commit_in_order(home, disk):
    async with gate(home, backend="local") as egress:
        disk.hold_up()
        under_way = []
        for number in range(40):
            under_way.append(asyncio.create_task(egress.audit.record("cli", "test.deed", str(number), "ok")))
            await asyncio.sleep(0.002)
        assert not any(task.done() for task in under_way)
        with commits() as counted:
            disk.go_on()
            await asyncio.gather(*under_way)
        assert len(counted) == 2, "the one that waited for the disk, and one for all others"
        assert [entry.subject for entry in await egress.audit.tail(99)] == [str(number) for number in range(40)]
        assert (await egress.audit.verify())[1] == []


async def test_whoever_gives_up_waiting_is_written_down_all_the_same_and_spoils_it_for_nobody(home, disk):
    async with gate(home, backend="local") as egress:
        disk.hold_up()
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(egress.audit.record("cli", "test.deed", str(number), "ok")))
            # The first one is being written then; the others share the next turn.
            await asyncio.sleep(0.05)
        tasks[1].cancel()
        assert isinstance((await asyncio.gather(tasks[1], return_exceptions=True))[0], asyncio.CancelledError)
        disk.go_on()
        await asyncio.gather(tasks[0], tasks[2])
        assert [entry.subject for entry in await egress.audit.tail(9)] == ["0", "1", "2"]


async def test_a_call_is_metered_and_audited_or_neither(home):
    async with gate(home, backend="local") as egress:
        count = egress.meter.counting("home", Usage("m", input_tokens=1 << 70, output_tokens=-5, known=True))

        def breaks(db) -> None:
            count(db)
            raise OSError("no space")

        with pytest.raises(UnhealthyError, match="can't be written"):
            await egress.audit.record("cli", "model.call", "1", "200", also=breaks)
        assert await egress.meter.rows() == [] and await egress.audit.tail(9) == []
        await egress.audit.record("cli", "model.call", "2", "200", also=count)
        [row] = await egress.meter.rows()
        assert row.calls == 1 and row.input_tokens > 1 << 30 and row.output_tokens == 0, "nonsense is bounded"
        assert [entry.number for entry in await egress.audit.tail(9)] == [1]


async def test_what_a_full_disk_does_not_take_is_not_allowed_and_later_goes_on_in_the_same_chain(
    home, upstream, authority,
):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, backend="local", allow=["good.example"], world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        log = home.database("egress").with_name("egress.db-wal")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
        try:
            with pytest.raises(UnhealthyError, match=r"can't be written \(OperationalError\): look at the disk"):
                await egress.audit.record("cli", "test.deed", "1", "ok")
            assert await call(door, connecting("evil.example:443")) == b"", "not even a refusal"
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await get_through(door, "good.example", authority.client())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await get_through(door, "good.example", authority.client()) == b"hello\n"
        assert [entry.outcome for entry in await egress.audit.tail(9)] == ["allow", "allow"]
        assert (await egress.audit.verify())[1] == []


async def test_what_is_to_be_written_when_the_service_ends_is_written_and_then_nothing_more(home, disk):
    async with gate(home, backend="local") as egress:
        disk.hold_up()
        late = [asyncio.create_task(egress.audit.record("cli", "test.deed", str(n), "ok")) for n in range(3)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, disk.go_on)
    await asyncio.gather(*late)
    for _ in range(2):
        with pytest.raises(UnhealthyError, match="egress is ending"):
            await egress.audit.record("cli", "test.deed", "too late", "ok")
    async with gate(home, backend="local") as egress:
        assert [entry.subject for entry in await egress.audit.tail(9)] == ["0", "1", "2"]


async def test_killed_at_any_instant_the_chain_verifies_and_holds_all_that_was_told(home):
    told: set[str] = set()

    async def asking(door: Path, names: Iterator[str]) -> None:
        with suppress(OSError):
            for name in names:
                if (await call(door, connecting(f"{name}:443"), timeout_s=WAIT_S_MAX)).startswith(b"HTTP/1.1 403"):
                    told.add(f"{name}:443")

    for life in range(4):
        with egress_process(home, 1, 4) as (pid, doors):
            names = (f"h{life}-{number}.example" for number in range(10_000))
            under_way = asyncio.gather(*(asking(door, names) for door in doors for _ in range(4)))
            before = len(told)
            async with asyncio.timeout(WAIT_S_MAX):
                while len(told) < before + 20:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(random.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            await under_way
    async with gate(home, backend="local") as egress:
        assert egress.audit.trouble == ""
        head, faults = await egress.audit.verify()
        assert faults == []
        written = {entry.subject for entry in await egress.audit.tail(head.number) if entry.outcome == "deny"}
        assert len(told) >= 80 and told <= written


async def test_a_yes_for_always_holds_for_whoever_asks_while_it_is_written(home, upstream, authority, disk):
    outside = Outside({"good.example": [PUBLIC]}, await upstream(echo, tls=authority.server()))
    async with gate(home, world=outside.world()) as egress:
        door = await egress.doors.open("w1", "home", now_ms=1)
        code = code_in(await call(door, connecting("good.example:443")))
        disk.hold_up()
        answered = asyncio.create_task(egress.approvals.answer(code, "always", "cli"))
        await asyncio.sleep(0)
        asked = asyncio.create_task(get_through(door, "good.example", authority.client()))
        await asyncio.wait({answered, asked}, timeout=0.2)
        disk.go_on()
        assert await answered == "" and await asked == b"hello\n"
        assert [row.state for row in await egress.approvals.rows()] == ["always"], "it was not asked anew"
        assert await egress.rules.change("good.example", "forget", "home", now_ms=1)
        assert code_in(await call(door, connecting("good.example:443"))) != code


async def test_no_thread_but_its_own_can_use_the_database(home):
    db = Database(home.database("egress"), HEADS["egress"])
    with pytest.raises(ProgrammingError, match="thread"), db.begin():
        pass
    await db.close()
