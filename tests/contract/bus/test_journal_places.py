"""The journal's index over places: folded now and then, known by heart meanwhile; and journals from before it."""

from __future__ import annotations

import shutil
import sqlite3
import zlib
from pathlib import Path

import pytest
from tests.engine_alone import EngineAlone, Peer, envelope

from microclaw.bus import storing, tail, upkeep
from microclaw.bus.api import Subscription
from microclaw.bus.envelope import decode
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check, repair
from microclaw.core.ids import new_id

WORK = Subscription("work", ("reply.requested",))


def publish(alone: EngineAlone, peer: Peer, count: int, session: str = "s") -> list[bytes]:
    ids = [new_id(alone.clock.wall_ms) for _ in range(count)]
    rid = alone.publish(peer, *(envelope("p", session, message_id) for message_id in ids))
    alone.turn()
    assert rid in peer.receipts
    return ids


def replayed(alone: EngineAlone, peer: Peer, after: int, limit: int = 1_000, session: str = "s") -> list[bytes]:
    """The ids of one page, whose seqs are checked."""
    rid = alone.replay(peer, session, after, limit)
    alone.turn()
    rows, _ = peer.replayed[rid]
    assert [seq for seq, _ in rows] == list(range(after + 1, after + 1 + len(rows)))
    return [decode(body).message_id for _, body in rows]


def places_of(journal: Journal) -> dict[str, int]:
    """How many places of each session the index has."""
    return dict(journal._db.execute("SELECT name, count(*) FROM places JOIN sessions ON no = session GROUP BY no"))


@pytest.mark.parametrize("limit", [1, 7, 10, 11, 1_000])
def test_a_replay_goes_over_the_place_where_the_index_ends(tmp_path: Path, limit: int) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids = publish(alone, peer, 10)
    publish(alone, peer, 3, "other")
    alone.engine.upkeep.tidy(now=True)
    assert alone.engine.storage.unfolded == 0
    ids += publish(alone, peer, 10)
    publish(alone, peer, 3, "other")
    for after in range(21):
        assert replayed(alone, peer, after, limit) == ids[after:after + limit]
    journal.close()


def test_what_is_not_folded_is_known_after_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids = publish(alone, peer, 5)
    alone.engine.upkeep.tidy(now=True)
    ids += publish(alone, peer, 5)
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in ("journal.db", "journal.db-wal"):
        shutil.copy(tmp_path / file, killed / file)
    journal.close()
    successor = Journal(killed / "journal.db")
    alone = EngineAlone(successor)
    peer = alone.connect("p")
    assert replayed(alone, peer, 0) == ids
    ids += publish(alone, peer, 5)
    assert replayed(alone, peer, 0) == ids
    assert check(killed / "journal.db") == []
    successor.close()


def test_under_load_the_index_is_folded_by_itself_and_between_turns(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "UNFOLDED_MAX", 100)
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    for _ in range(99):
        publish(alone, peer, 1)
        alone.engine.upkeep.tidy()
    assert journal.placed() == 0
    publish(alone, peer, 1)
    alone.engine.upkeep.tidy()
    assert journal.placed() == 100
    assert len(replayed(alone, peer, 0)) == 100
    journal.close()


def test_a_publisher_never_waits_for_more_than_a_bounded_part_of_the_folding(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "UNFOLDED_MAX", 100)
    monkeypatch.setattr(storing, "FOLD_PLACES_MAX", 16)
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids: dict[str, list[bytes]] = {name: [] for name in "abcde"}
    for n in range(100):
        name = "abcde"[n % 5] if n < 50 else "a"
        ids[name] += publish(alone, peer, 1, name)
    parts = 0
    before = 0
    while alone.engine.upkeep.tidy():
        parts += 1
        there = sum(places_of(journal).values())
        assert there - before <= 16
        before = there
        # All goes on meanwhile, in sessions that are done and in those that are not.
        for name in "ae":
            ids[name] += publish(alone, peer, 1, name)
            assert replayed(alone, peer, 0, session=name) == ids[name]
    assert parts >= 6
    assert journal.placed() == 100, "what came meanwhile is for the next pass"
    assert sum(places_of(journal).values()) >= 100
    journal.close()


@pytest.mark.parametrize("parts", range(8))
def test_a_kill_in_the_middle_of_the_folding_loses_no_place_and_doubles_none(
    tmp_path: Path, monkeypatch, parts: int
) -> None:
    monkeypatch.setattr(storing, "FOLD_PLACES_MAX", 16)
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids = {name: publish(alone, peer, 25, name) for name in "abcd"}
    for _ in range(parts):
        alone.engine.upkeep.tidy(now=True)
    ids["a"] += publish(alone, peer, 3, "a")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in ("journal.db", "journal.db-wal"):
        shutil.copy(tmp_path / file, killed / file)
    journal.close()
    assert check(killed / "journal.db") == []
    successor = Journal(killed / "journal.db")
    alone = EngineAlone(successor)
    peer = alone.connect("p")
    for name, known in ids.items():
        assert replayed(alone, peer, 0, session=name) == known
        known += publish(alone, peer, 3, name)
        assert replayed(alone, peer, 0, session=name) == known
    alone.engine.upkeep.fold_all()
    assert places_of(successor) == {name: len(known) for name, known in ids.items()}
    assert check(killed / "journal.db") == []
    successor.close()


def test_retention_waits_for_the_index_and_takes_what_it_has(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(storing, "FOLD_PLACES_MAX", 16)
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal, retention_ms=1_000)
    peer = alone.connect("p")
    for name in "abcd":
        publish(alone, peer, 10, name)
    alone.clock.pass_(3_600)
    assert alone.engine.upkeep.expire() == 0, "half of a pass: not all up to any offset is in the index"
    alone.engine.upkeep.fold_all()
    assert alone.engine.upkeep.expire() == 40
    assert places_of(journal) == {}
    assert check(tmp_path / "journal.db") == []
    ids = publish(alone, peer, 2, "a")
    assert replayed(alone, peer, 10, session="a") == ids
    journal.close()


def test_a_replay_of_what_is_neither_folded_nor_in_memory_folds_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tail, "TAIL_MESSAGES_MAX", 50)
    monkeypatch.setattr(tail, "TAIL_SLACK", 0)
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids = [message_id for _ in range(200) for message_id in publish(alone, peer, 1)]
    assert replayed(alone, peer, 160) == ids[160:]
    assert journal.placed() == 0, "what is in memory needs no index"
    assert replayed(alone, peer, 20) == ids[20:]
    assert (journal.placed(), places_of(journal)) == (0, {"s": 200}), "this session's alone"
    journal.close()


def test_ac33_an_index_that_says_otherwise_than_the_messages_is_found_and_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    ids = publish(alone, peer, 20)
    alone.engine.upkeep.tidy(now=True)
    journal.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE places SET offset = 3 WHERE seq = 7")
    db.execute("DELETE FROM places WHERE seq = 12")
    db.commit()
    db.close()
    assert [line.split()[1] for line in check(path)] == ["7", "12"]
    lost, _ = repair(path)
    assert lost == []
    assert check(path) == []
    journal = Journal(path)
    alone = EngineAlone(journal)
    assert replayed(alone, alone.connect("p"), 0) == ids
    journal.close()


def test_a_repaired_journal_still_knows_which_blobs_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    alone = EngineAlone(journal)
    publish(alone, alone.connect("p"), 1)
    journal.begin()
    journal._write("INSERT INTO blobs VALUES ('sha256:needed', 1), ('sha256:of nothing', 77)")
    journal.commit()
    journal.close()
    repair(path)
    journal = Journal(path)
    assert journal.refers("sha256:needed")
    assert not journal.refers("sha256:of nothing")
    journal.close()


VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE kinds (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE sessions (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, base_seq INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY, id BLOB NOT NULL, session INTEGER NOT NULL, seq INTEGER NOT NULL,
    kind INTEGER NOT NULL, stored_ms INTEGER NOT NULL, digest BLOB NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
    not_before_ms INTEGER, expires_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE UNIQUE INDEX messages_place ON messages (session, seq);
CREATE TABLE groups (
    no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, floor INTEGER NOT NULL, spec BLOB NOT NULL
) STRICT;
CREATE TABLE settled (grp INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (grp, offset)) STRICT, WITHOUT ROWID;
CREATE TABLE parked (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, count INTEGER NOT NULL, due_ms INTEGER NOT NULL,
    first_error TEXT NOT NULL, last_error TEXT NOT NULL, PRIMARY KEY (grp, offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (handle TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (handle, offset)) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, count INTEGER NOT NULL, dead_ms INTEGER NOT NULL,
    reason TEXT NOT NULL, first_error TEXT NOT NULL, last_error TEXT NOT NULL, PRIMARY KEY (grp, offset)
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 'aaaabbbbccccdddd');
INSERT INTO kinds VALUES (1, 'reply.requested');
INSERT INTO sessions VALUES (1, 's', 0);
PRAGMA user_version=1;
"""


def test_a_journal_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    bodies = [envelope("p", "s", new_id(1)) for _ in range(5)]
    ids = [decode(body).message_id for body in bodies]
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(VERSION_1)
    for n, (message_id, body) in enumerate(zip(ids, bodies, strict=True), 1):
        crc = zlib.crc32(body, zlib.crc32(message_id))
        db.execute("INSERT INTO messages VALUES (?, ?, 1, ?, 1, 5, x'00', ?, ?, NULL, NULL)",
                   (n, message_id, n, crc, body))
    db.close()
    journal = Journal(path)
    assert journal.epoch == "aaaabbbbccccdddd"
    alone = EngineAlone(journal)
    peer = alone.connect("p")
    assert replayed(alone, peer, 0) == ids
    again = alone.publish(peer, bodies[2])
    ids += publish(alone, peer, 3)
    assert peer.receipts[again] == [[3, True]]
    journal.close()
    assert check(path) == []
    journal = Journal(path)
    alone = EngineAlone(journal)
    assert replayed(alone, alone.connect("p"), 0) == ids
    journal.close()


def test_retention_and_the_owners_questions_do_not_read_the_whole_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    alone = EngineAlone(journal, retention_ms=3_600_000)
    peer = alone.connect("p")
    for n in range(40):
        publish(alone, peer, 1_000, f"s{n % 4}")
        alone.clock.pass_(1)
    alone.engine.upkeep.fold_all()
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    journal._db.set_progress_handler(count, 100)
    began_ms = alone.clock.wall_ms - 40_000
    assert alone.engine.upkeep.expire() == 0
    assert journal.offset_at(began_ms + 20_000) == 20_001
    assert journal.offset_at(0) == 1
    assert journal.offset_at(alone.clock.wall_ms) == 40_001
    assert journal.sessions("s", 3) == [("s3", 10_000, 10_000), ("s2", 10_000, 10_000), ("s1", 10_000, 10_000)]
    assert journal.counts()["messages"] == 40_000
    assert steps * 100 < 40_000, "fewer steps of SQLite's machine than there are messages"
    journal._db.set_progress_handler(None, 0)
    alone.clock.pass_(3_600 - 35)
    assert alone.engine.upkeep.expire() == 200
    assert journal.sessions("s0", 1) == [("s0", 10_000, 9_800)]
    journal.close()
