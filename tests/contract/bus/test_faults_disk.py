"""Faults 5 to 8 and 20: a full, failing, doubled, damaged or pinned journal."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from tests.broker_process import BrokerProcess
from tests.engine_alone import EngineAlone, envelope
from tests.faults.powercut import Disk

from microclaw.bus.api import Subscription
from microclaw.bus.ballast import Ballast
from microclaw.bus.journal import CHECKPOINT_PAGES, Journal
from microclaw.bus.journal_schema import STDLIB, JournalError, NoSpace
from microclaw.bus.wire import Op
from microclaw.core.ids import new_id

WORK = Subscription("work", ("reply.requested",))
BODY = "x" * 60_000


def stored(alone: EngineAlone, count: int, text: str = "x") -> None:
    """So many messages of session `s`, acknowledged."""
    peer = alone.connect("p")
    for _ in range(count):
        rid = alone.publish(peer, envelope("p", "s", new_id(alone.clock.wall_ms), text=text))
        alone.turn()
        assert rid in peer.receipts


def test_ac34_fault05_a_full_disk_refuses_publishers_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    ballast = Ballast(tmp_path / "journal.ballast", 1 << 20)
    alone = EngineAlone(journal, ballast=ballast)
    stored(alone, 20, BODY)
    consumer, peer = alone.connect("c"), alone.connect("q")
    alone.subscribe(consumer, WORK)
    alone.turn()
    (first,) = alone.taken(consumer)
    # SQLite itself says SQLITE_FULL beyond this many pages, as it does when a write finds no room.
    journal._db.execute("PRAGMA max_page_count=1")
    refused, told = 0, 0
    body = envelope("q", "t", new_id(1), text=BODY)
    for _ in range(200):
        rid = alone.publish(peer, body)
        alone.turn()
        if rid in peer.refusals:
            assert peer.refusals[rid][0] == "no_space"
            assert peer.refusals[rid][2] > 0, "it says when to come again"
            refused += 1
            break
        told += 1
        body = envelope("q", "t", new_id(1), text=BODY)
    assert refused
    assert alone.engine.no_space
    assert not (tmp_path / "journal.ballast").exists(), "the reserve is in use"
    assert alone.replay(consumer, "s", 0) and len(alone.engine.turn()) == 1, "what is there can be read"
    journal._db.execute("PRAGMA max_page_count=1000000")
    rid = alone.ack(consumer, "work", [first[0]])
    alone.clock.pass_(2)
    alone.settle_down()
    assert rid in consumer.receipts, "work goes on"
    rid = alone.publish(peer, body)
    alone.turn()
    assert peer.receipts[rid] == [[told + 1, False]], "the same message, now accepted, at the next place"
    assert (tmp_path / "journal.ballast").exists(), "the reserve is back"
    assert list(journal._db.execute("PRAGMA integrity_check")) == [("ok",)]
    journal.close()


def test_fault05_publishers_wait_while_there_is_no_room_for_the_reserve(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal, ballast=Ballast(tmp_path / "journal.ballast", 1 << 60))
    peer = alone.connect("p")
    rid = alone.publish(peer, envelope("p", "s", new_id(1)))
    alone.settle_down()
    assert peer.refusals[rid][0] == "no_space"
    assert journal.last_offset() == 0
    journal.close()


@pytest.mark.parametrize("at", ["a statement", "the commit"])
def test_fault05_on_a_full_disk_what_consumers_have_stays_with_them(tmp_path: Path, monkeypatch, at: str) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    stored(alone, 1)
    one, other, peer = alone.connect("one"), alone.connect("other"), alone.connect("q")
    alone.subscribe(one, WORK)
    alone.turn()
    alone.subscribe(other, WORK)
    ((offset, *_),) = alone.taken(one)

    def full() -> None:
        journal.rollback()
        raise NoSpace

    acked = alone.ack(one, "work", [offset], *(envelope("one", "t", new_id(1), text=BODY) for _ in range(200)))
    with monkeypatch.context() as patched:
        if at == "the commit":
            patched.setattr(journal, "commit", full)
        else:
            journal._db.execute("PRAGMA max_page_count=1")
        alone.settle_down()
    assert one.refusals.pop(acked)[0] == "no_space"
    assert alone.taken(other) == alone.taken(one) == [], "it is still the first one's, who will say it again"
    journal._db.execute("PRAGMA max_page_count=1000000")
    rid = alone.publish(peer, envelope("q", "s", new_id(1)))
    alone.settle_down()
    assert rid in peer.receipts
    assert alone.taken(other) == alone.taken(one) == [], "and its session waits for it"
    assert alone.engine.groups["work"].loaded == 2, "what was refused is not settled by the next one's commit"
    alone.ack(one, "work", [offset])
    alone.clock.pass_(1)
    alone.settle_down()
    assert [row[0] for row in alone.taken(one) + alone.taken(other)] == [offset + 1]
    assert sum(member.in_flight for member in alone.engine.groups["work"].subscribers) == 1
    journal.close()


def test_fault05_what_was_denied_on_a_full_disk_is_in_the_audit_when_there_is_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    alone.connect("p")
    journal._db.execute("PRAGMA max_page_count=1")
    for n in range(20):
        alone.engine.denied("console", "publish", f"{n}: " + "x" * 490)
    while not alone.engine.no_space:
        alone.publish(alone.connect("q"), *(envelope("q", "t", new_id(1), text=BODY) for _ in range(100)))
        alone.turn()
    journal._db.execute("PRAGMA max_page_count=1000000")
    alone.turn()
    assert alone.engine.storage.session("audit")[1] == 20
    journal.close()


def test_fault05_a_dead_letter_that_could_not_be_requeued_stays_one(tmp_path: Path, monkeypatch) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    stored(alone, 1)
    consumer = alone.connect("c")
    alone.subscribe(consumer, WORK)
    alone.turn()
    ((offset, *_),) = alone.taken(consumer)
    alone.say(consumer, Op.TERM, "work", offset, "never")
    alone.clock.pass_(1)
    alone.settle_down()
    group = alone.engine.groups["work"]

    def full() -> None:
        journal.rollback()
        raise NoSpace

    with monkeypatch.context() as patched:
        patched.setattr(journal, "commit", full)
        with pytest.raises(NoSpace):
            alone.engine.upkeep.requeue(group, offset)
    alone.settle_down()
    assert alone.taken(consumer) == []
    assert journal.dead_offsets(group.no) == [offset]
    assert alone.engine.upkeep.requeue(group, offset)
    alone.settle_down()
    assert [row[0] for row in alone.taken(consumer)] == [offset]
    journal.close()


FULL_DISK = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tests.broker_process import BrokerProcess
from tests.engine_alone import EngineAlone, envelope
from microclaw.bus.ballast import Ballast
from microclaw.bus.journal import Journal, NoSpace
from microclaw.core.ids import new_id
root = Path(sys.argv[1])
def fill():
    with (root / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
ballast = Ballast(root / "journal.ballast")
journal = Journal(root / "journal.db")
alone = EngineAlone(journal, ballast=ballast)
peer = alone.connect("p")
told, full = 0, False
while not full:
    if told == 100:
        fill()
    rid = alone.publish(peer, envelope("p", "s", new_id(1), text="x" * 50_000))
    alone.turn()
    full = rid in peer.refusals
    told += not full
assert peer.refusals[rid][0] == "no_space", peer.refusals
assert told >= 100
journal.checkpoint("PASSIVE")
alone.replay(peer, "s", told - 1); alone.turn()
assert peer.replayed, "reading goes on"
journal.close()
fill()
try:
    journal = Journal(root / "journal.db")
except NoSpace:
    ballast.drop()
    (root / "filler").unlink()
    journal = Journal(root / "journal.db")
else:
    (root / "filler").unlink()
alone = EngineAlone(journal, ballast=ballast)
assert journal.last_offset() == told, (journal.last_offset(), told)
peer = alone.connect("p")
rid = alone.publish(peer, envelope("p", "s", new_id(1)))
alone.turn()
assert peer.receipts[rid] == [[told + 1, False]], peer.refusals
assert list(journal._db.execute("PRAGMA integrity_check")) == [("ok",)]
print("well", told)
"""


def test_ac34_fault05_a_really_full_file_system_at_commit_at_checkpoint_and_at_start(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        if "namespaces" in os.environ.get("MC_REQUIRE_ENGINE", "").split(","):
            pytest.fail("a file system in a namespace of its own is required here")
        pytest.skip("no small file system to fill: `unshare -rm mount -t tmpfs` does not work here")
    program = tmp_path / "program.py"
    program.write_text(FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=120m tmpfs "$1" && exec "$2" "$3" "$1" "$4"'
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, program, os.getcwd()],
        capture_output=True, text=True, timeout=60,
    )
    assert ended.stdout.startswith("well"), ended


def test_ac34_fault06_after_a_failed_sync_nothing_is_acknowledged(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal(tmp_path / "journal.db", driver=disk.driver())
    alone = EngineAlone(journal)
    stored(alone, 5)
    peer = alone.connect("q")
    disk.sync_fails = lambda: apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
    rid = alone.publish(peer, envelope("q", "t", new_id(1)))
    with pytest.raises(apsw.IOError):
        alone.turn()
    assert rid not in peer.receipts
    disk.abandon()
    journal.close()


def test_ac34_fault06_the_broker_process_dies_and_its_successor_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.broker_with_failing_sync", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )
    assert ended.returncode == 5, ended
    assert "ends without answering" in ended.stdout


def test_ac34_fault05_a_disk_that_becomes_read_only_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The broker ends, says why in one line, does not start until it is mended, and then has everything."""
    with short_folder() as root:
        ended = subprocess.run(
            ["unshare", "-m", sys.executable, "-m", "tests.faults.broker_on_a_disk_that_fails", root],
            capture_output=True, text=True, timeout=100,
        )
    if ended.stdout.startswith("skip") or "unshare" in ended.stderr:
        pytest.skip(f"no disk of our own to fail: {ended.stdout.strip() or ended.stderr.strip()}")
    assert ended.stdout == "well\n", ended


def test_ac34_fault05_a_read_only_folder_is_refused_at_the_start_in_one_line(tmp_path: Path) -> None:
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -m microclaw.broker'
    with short_folder() as root:
        broker = BrokerProcess(root)
        ended = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", broker.home.data, sys.executable], env=broker.env,
            capture_output=True, text=True, timeout=60,
        )
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"no read-only folder: {ended.stderr.strip()}")
    assert ended.returncode == 5, ended
    (line,) = (ended.stdout + ended.stderr).splitlines()
    said = json.loads(line)
    assert str(broker.home.data) in said["event"] and "remount,rw" in said["event"], said
    assert "trace" not in said


@contextmanager
def short_folder() -> Iterator[Path]:
    """Unix sockets lie in it."""
    root = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_fault07_a_foreign_writer_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    stored(alone, 1)
    foreign = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    peer = alone.connect("q")
    rid = alone.publish(peer, envelope("q", "t", new_id(1)))
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        alone.turn()
    assert time.monotonic() - began < 2, "everybody would wait with it"
    assert rid not in peer.receipts
    foreign.close()
    journal.close()


def damaged_copy(tmp_path: Path, count: int = 300, *, checkpointed: bool) -> Path:
    """A journal as a killed broker leaves it, to be damaged."""
    source = tmp_path / "source"
    source.mkdir()
    journal = Journal(source / "journal.db")
    stored(EngineAlone(journal), count, "y" * 500)
    if checkpointed:
        journal.checkpoint("TRUNCATE")
    target = tmp_path / "target"
    shutil.copytree(source, target)
    journal.close()
    return target / "journal.db"


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes((byte ^ 0x10,)))


@pytest.mark.parametrize("what", ["flip in the middle", "flip in the header", "cut", "gone"])
def test_ac33_fault08_a_damaged_write_ahead_log_is_refused_loudly(tmp_path: Path, what: str) -> None:
    path = damaged_copy(tmp_path, checkpointed=False)
    wal = Path(f"{path}-wal")
    match what:
        case "flip in the middle":
            flip(wal, 32 + 4120 * 200 + 2_000)
        case "flip in the header":
            flip(wal, 17)
        case "cut":
            os.truncate(wal, 32 + 4120 * 200)
        case "gone":
            wal.unlink()
    with pytest.raises(JournalError, match=r"cut off or damaged|is damaged|can't be read"):
        Journal(path)


def test_fault01_a_broker_killed_while_it_writes_its_log_in_advance_starts_again(tmp_path: Path) -> None:
    killed = tmp_path / "killed"

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if "DROP TABLE prewarm" in sql and not killed.exists():
                shutil.copytree(tmp_path / "source", killed)
                os.truncate(killed / "journal.db-wal", 5 << 20)
            return super().execute(sql, *parameters)

    driver = replace(
        STDLIB, connect=lambda path: sqlite3.connect(path, isolation_level=None, timeout=0, factory=Connection)
    )
    (tmp_path / "source").mkdir()
    Journal(tmp_path / "source" / "journal.db", driver=driver).close()
    journal = Journal(killed / "journal.db")
    stored(EngineAlone(journal), 1)
    assert journal.sizes()[1] >= CHECKPOINT_PAGES * 4096
    journal.close()


@pytest.mark.parametrize("what", ["header", "tree", "cut"])
def test_ac33_fault08_a_damaged_file_is_refused_loudly(tmp_path: Path, what: str) -> None:
    path = damaged_copy(tmp_path, checkpointed=True)
    match what:
        case "header":
            flip(path, 3)
        case "tree":
            with path.open("r+b") as file:
                for page in range(3, path.stat().st_size // 4096, 5):
                    file.seek(page * 4096)
                    file.write(b"\xff" * 16)
        case "cut":
            os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(JournalError, match=r"is damaged|can't be read|cut off or damaged"):
        Journal(path)


def test_ac33_fault08_an_undamaged_copy_opens(tmp_path: Path) -> None:
    journal = Journal(damaged_copy(tmp_path, checkpointed=False))
    assert journal.last_offset() == 300
    journal.close()


def test_ac33_fault08_a_damaged_message_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    stored(EngineAlone(journal), 5)
    journal._db.execute(
        "UPDATE messages SET body = CAST(substr(body, 1, length(body) - 1) || x'00' AS BLOB) WHERE seq = 3"
    )
    alone = EngineAlone(journal)
    consumer = alone.connect("c")
    alone.subscribe(consumer, WORK)
    seen = []
    for _ in range(10):
        alone.settle_down()
        for offset, seq, _count, _body in alone.taken(consumer):
            seen.append(seq)
            alone.ack(consumer, "work", [offset])
            alone.clock.pass_(1)
    assert seen == [1, 2, 4, 5]
    ((offset, _count, _when, reason, *_),) = journal.dead(1, 10)
    assert (offset, "checksum" in reason) == (3, True)
    first, second, third = (alone.replay(consumer, "s", after) for after in (0, 2, 3))
    alone.turn()
    assert [seq for seq, _ in consumer.replayed[first][0]] == [1, 2]
    assert consumer.refusals[second][0] == "damaged"
    assert [seq for seq, _ in consumer.replayed[third][0]] == [4, 5]
    journal.close()


def test_fault20_a_reader_that_pins_the_log_stops_nobody_and_the_log_is_reused_after_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    stored(alone, 10)
    made = journal.sizes()[1]
    assert made >= CHECKPOINT_PAGES * 4096, "as long as it gets, from the start"
    reader = sqlite3.connect(f"file:{tmp_path / 'journal.db'}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (10,)
    stored(alone, 500, BODY)
    pinned = journal.sizes()[1]
    assert pinned > made + (8 << 20), "the log can't be reused while somebody reads its beginning"
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (10,)
    reader.close()
    stored(alone, 500, BODY)
    assert journal.sizes()[1] <= pinned + (2 << 20), "it is reused after that"
    journal.close()


def test_fault05_opening_on_a_full_disk_says_so(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal(tmp_path / "journal.db", driver=disk.driver())
    journal.close()
    disk.write_fails = lambda: apsw.exception_for(apsw.SQLITE_FULL)
    disk.files = {name: file for name, file in disk.files.items() if not name.endswith(".db")}
    with pytest.raises(NoSpace):
        Journal(tmp_path / "journal.db", driver=disk.driver())
