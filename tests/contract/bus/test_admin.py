"""What the owner can see and mend, through the broker."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from tests.broker_process import DEADLINE_S, BrokerProcess
from tests.engine_alone import EngineAlone, envelope

from microclaw.broker.jobs import Jobs
from microclaw.bus import admin
from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check, repair
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyDelivered, ReplyRequested
from microclaw.core.requests import Failed


def say(text: str, session: str = "s") -> Draft:
    return Draft(session, ReplyRequested(chat=session, text=text))


async def bury(bus: Bus, *texts: str) -> None:
    """Make each of these a dead letter of group g."""
    stream = bus.subscribe(Subscription("g", ("reply.requested",)))
    await bus.publish(*(say(text, f"s-{text}") for text in texts))
    for _ in texts:
        await bus.term(await asyncio.wait_for(anext(stream), DEADLINE_S), "can't be read")
    # A `term` has no answer: what is said after it on the same connection has.
    await bus.publish(Draft("s", ReplyDelivered(chat="s", reply_id="", status="failed")))


async def ask(owner: Bus, question: object, answer: type) -> object:
    return await owner.request("broker", question, answer | Failed)


async def test_pain06_dead_letters_are_shown_with_why_and_come_again_on_demand(connect) -> None:
    victim = await connect("victim")
    await bury(victim, "a", "b")
    await victim.close()
    owner = await connect("cli")
    letters = (await ask(owner, admin.DeadLettersAsked(), admin.DeadLetters)).letters
    assert [letter.reason for letter in letters] == ["can't be read"] * 2
    first = min(letters, key=lambda letter: letter.offset)
    requeue = admin.SettleDead(group="g", offset=first.offset, action="requeue")
    assert (await ask(owner, requeue, admin.Settled)).count == 1
    stream = owner.subscribe(Subscription("g", ("reply.requested",)))
    again = await asyncio.wait_for(anext(stream), DEADLINE_S)
    assert (again.envelope.read(ReplyRequested).text, again.count) == ("a", 1)
    await owner.ack(again)
    assert (await ask(owner, admin.SettleDead(group="g", offset=0, action="drop"), admin.Settled)).count == 1
    assert (await ask(owner, admin.DeadLettersAsked(), admin.DeadLetters)).letters == ()


async def test_dead_letters_too_large_for_one_answer_are_shown_the_newest_first(connect) -> None:
    victim, owner = await connect("victim"), await connect("cli")
    stream = victim.subscribe(Subscription("g", ("reply.requested",)))
    for n in range(18):
        await victim.publish(say(f"{n} " + "x" * 1_000_000, f"s{n}"))
        await victim.term(await asyncio.wait_for(anext(stream), DEADLINE_S), "too large")
        await victim.publish(Draft("elsewhere", ReplyDelivered(chat="s", reply_id="", status="sent")))
    letters = (await ask(owner, admin.DeadLettersAsked(), admin.DeadLetters)).letters
    assert [letter.offset for letter in letters] == sorted((letter.offset for letter in letters), reverse=True)
    assert len(letters) == 8
    assert letters[0].offset == 52, "each has a notice, and what was published after it"


async def test_a_requeued_dead_letter_survives_the_broker(broker: BrokerProcess, connect) -> None:
    victim = await connect("victim")
    await bury(victim, "a")
    await victim.close()
    owner = await connect("cli")
    await ask(owner, admin.SettleDead(group="g", offset=0, action="requeue"), admin.Settled)
    broker.restart()
    again = await asyncio.wait_for(anext(owner.subscribe(Subscription("g", ("reply.requested",)))), DEADLINE_S)
    assert again.envelope.read(ReplyRequested).text == "a"


async def test_fault11_groups_show_their_lag_and_who_reads(connect) -> None:
    owner = await connect("cli")
    stream = owner.subscribe(Subscription("g", ("reply.requested",), max_in_flight=1))
    await owner.publish(say("1", "a"), say("2", "b"), say("3", "c"))
    await asyncio.wait_for(anext(stream), DEADLINE_S)
    (group,) = (await ask(owner, admin.GroupsOfBusAsked(), admin.GroupsOfBus)).groups
    assert (group.name, group.consumers, group.in_flight, group.waiting) == ("g", ("cli",), 1, 3)
    assert group.oldest_unsettled_ms >= 0
    text = (await ask(owner, admin.MetricsAsked(), admin.Text)).text
    assert 'microclaw_bus_group_in_flight{group="g"} 1\n' in text
    assert "microclaw_bus_published_total 3\n" in text
    assert isinstance(await ask(owner, admin.DropGroup(name="g"), admin.Settled), Failed), "it has a consumer"


async def test_what_administers_is_the_owners_alone(connect) -> None:
    guest = await connect("guest")
    refused = await ask(guest, admin.SettleDead(group="g", offset=0, action="drop"), admin.Settled)
    assert isinstance(refused, Failed)
    assert refused.code == "denied"


async def test_tail_gives_the_last_ones_those_after_an_offset_and_those_since_a_moment(connect) -> None:
    owner = await connect("cli")
    await owner.publish(*(say(str(n)) for n in range(20)))
    last = (await ask(owner, admin.TailAsked(after=-3), admin.TailRows)).rows
    assert [row.seq for row in last] == [18, 19, 20]
    now_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == now_ms:
        await asyncio.sleep(0.001)
    now_ms = time.time_ns() // 1_000_000
    await owner.publish(say("late"))
    since = (await ask(owner, admin.TailAsked(after_ms=now_ms), admin.TailRows)).rows
    assert [row.seq for row in since] == [21]
    other = (await ask(owner, admin.TailAsked(kinds=("run.*",)), admin.TailRows)).rows
    assert other == ()


async def test_a_backup_taken_under_load_is_a_whole_journal(broker: BrokerProcess, connect, tmp_path: Path) -> None:
    owner = await connect("cli")
    stop = asyncio.Event()

    async def load() -> int:
        count = 0
        while not stop.is_set():
            await owner.publish(say("x", f"s{count % 7}"))
            count += 1
        return count

    working = asyncio.create_task(load())
    await owner.publish(*(say("before") for _ in range(1000)))
    file = tmp_path / "backup.db"
    state = await ask(owner, admin.StartJob(job="backup", path=str(file)), admin.JobState)
    async with asyncio.timeout(60):
        while not state.done:
            await asyncio.sleep(0.05)
            state = await ask(owner, admin.JobAsked(), admin.JobState)
    stop.set()
    assert await working > 0, "publishers went on meanwhile"
    assert state.error == ""
    assert file.stat().st_mode & 0o077 == 0
    assert check(file) == []
    journal = Journal(file)
    assert journal.last_offset() >= 1000
    journal.close()


def test_a_backup_of_a_large_journal_comes_to_its_end_while_others_write(tmp_path: Path) -> None:
    """SQLite begins a copy anew whenever somebody wrote between two steps of it."""
    journal = Journal(tmp_path / "journal.db", synchronous="OFF")
    alone = EngineAlone(journal)
    publisher = alone.connect("p")
    for _ in range(20):
        alone.publish(publisher, *(envelope("p", "s", new_id(1), text="x" * 50_000) for _ in range(50)))
        alone.turn()
    file = tmp_path / "backup.db"
    jobs = Jobs(journal, alone.engine.upkeep)
    jobs.start(admin.StartJob(job="backup", path=str(file)))
    deadline = time.monotonic() + DEADLINE_S
    while not jobs.state().done:
        assert time.monotonic() < deadline
        alone.publish(publisher, envelope("p", "s", new_id(1)))
        alone.turn()
        time.sleep(0.002)
    assert (jobs.state().error, check(file)) == ("", [])
    assert journal.last_offset() > 1_000
    journal.close()


async def fill(broker: BrokerProcess, count: int) -> None:
    bus = await broker.bus("cli")
    for start in range(0, count, 100):
        await bus.publish(*(say(f"{start + n} " + "x" * 200) for n in range(100)))
    await bus.close()
    broker.kill(15)


async def test_ac33_check_finds_a_flipped_byte_and_repair_saves_the_rest(broker: BrokerProcess) -> None:
    await fill(broker, 400)
    path = broker.home.data / "journal.db"
    assert check(path) == []
    with sqlite3.connect(path) as db:
        (body,) = db.execute("SELECT body FROM messages WHERE offset = 200").fetchone()
        db.execute("UPDATE messages SET body = ? WHERE offset = 200", (body[:-5] + b"y" + body[-4:],))
    assert [line.split(":")[0].split(" (")[0] for line in check(path)] == ["message 200"]
    lost, kept = repair(path)
    assert len(lost) == 1
    assert "seq 200" in lost[0]
    assert kept.exists()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (399,)
    broker.start()
    bus = await broker.bus("cli")
    assert (await bus.publish(say("next")))[0].seq == 401
    await bus.close()


async def test_ac33_a_torn_page_costs_what_stood_on_it_and_nothing_else(broker: BrokerProcess) -> None:
    await fill(broker, 400)
    path = broker.home.data / "journal.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = db.execute("SELECT pageno FROM dbstat WHERE name = 'messages' AND pagetype = 'leaf' LIMIT 1 OFFSET 5"
                          ).fetchone() if _has_dbstat(db) else (20,)
    raw = bytearray(path.read_bytes())
    raw[(page[0] - 1) * 4096 : page[0] * 4096] = bytes(4096)
    path.write_bytes(raw)
    assert check(path), "it is seen"
    lost, _ = repair(path)
    assert 0 < len(lost) < 60
    findings = [line for line in check(path) if "some are missing" not in line]
    assert findings == []


def _has_dbstat(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1 FROM dbstat LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


def test_bus_commands_work_on_a_journal_that_lies_still(tmp_path: Path) -> None:
    broker = BrokerProcess()
    try:
        asyncio.run(fill(broker.start(), 100))
        for command, code in (("check", 0), ("repair", 0)):
            ended = subprocess.run([sys.executable, "-P", "-m", "microclaw.cli", "bus", command], env=broker.env,
                                   capture_output=True, text=True, timeout=60)
            assert ended.returncode == code, ended.stderr
    finally:
        if broker.process is not None and broker.process.poll() is not None:
            broker.process = None
        broker.close()
