"""The write-ahead log is brought into the journal beside the traffic, and begins anew."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engine_alone import EngineAlone, Peer, envelope

from microclaw.bus import checkpoints
from microclaw.bus.checkpoints import AGAIN_S, Checkpoints
from microclaw.bus.journal import Journal
from microclaw.bus.journal_check import check
from microclaw.bus.journal_schema import NoSpace
from microclaw.core.ids import new_id

#: Small: a few hundred messages are enough for a checkpoint.
PAGES, LAST = 200, 16
DEADLINE_S = 60.0


class Made:
    """An engine with checkpoints beside its traffic, and what happens to the log."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.alone = EngineAlone(self.journal)
        self.checkpoints = Checkpoints(self.journal, lambda: self.alone.clock.monotonic_s)
        self.alone.engine.upkeep.checkpoints = self.checkpoints
        self.peer = self.alone.connect("p")
        self.ids: list[bytes] = []
        #: How long the log is, was at most, and how often it began anew after the first message.
        self.length = self.longest = self.anew = 0
        self.publish()

    def publish(self, text: str = "x" * 200) -> None:
        """One message, one turn."""
        self.ids.append(new_id(self.alone.clock.wall_ms))
        rid = self.alone.publish(self.peer, envelope("p", "s", self.ids[-1], text=text))
        self.alone.turn()
        assert rid in self.peer.receipts
        pages, _ = self.checkpoints.log()
        self.anew += pages < self.length
        self.length = pages
        self.longest = max(self.longest, pages)
        self.alone.engine.upkeep.tidy()

    def until(self, done: Callable[[], bool]) -> None:
        """Publish until then."""
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"the log has {self.checkpoints.log()} pages (all, copied)"
            self.publish()

    def replayed(self, peer: Peer) -> int:
        rid = self.alone.replay(peer, "s", len(self.ids) - 100)
        self.alone.turn()
        return len(peer.replayed[rid][0])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_PAGES", PAGES)
    monkeypatch.setattr(checkpoints, "LAST_PAGES", LAST)
    made = Made(tmp_path / "journal.db")
    yield made
    made.checkpoints.close()
    assert check(tmp_path / "journal.db") == []


def test_between_turns_never_more_than_a_few_pages_are_copied_and_the_log_begins_anew_again_and_again(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    checkpoint = Journal.checkpoint

    def counted(journal: Journal, mode: str = "PASSIVE") -> None:
        pages, copied = made.checkpoints.log()
        left.append(pages - copied)
        checkpoint(journal, mode)

    monkeypatch.setattr(Journal, "checkpoint", counted)
    made.until(lambda: made.anew >= 5)
    monkeypatch.undo()
    assert left and max(left) <= LAST
    assert made.replayed(made.peer) == 100


def test_publishers_go_on_while_the_thread_copies_however_long_it_takes(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    copy = made.journal.copy_beside

    def slowly() -> None:
        slow.wait(DEADLINE_S)
        copy()

    monkeypatch.setattr(made.journal, "copy_beside", slowly)
    made.until(lambda: made.checkpoints._copying is not None)
    for _ in range(PAGES):
        made.publish()
    assert made.anew == 0, "nothing is copied yet"
    slow.set()
    made.until(lambda: made.anew > 0)


def test_somebody_who_reads_an_older_state_holds_the_log_up_but_nobody_else(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0
    copy = made.journal.copy_beside

    def counted() -> None:
        nonlocal tries
        tries += 1
        copy()

    monkeypatch.setattr(made.journal, "copy_beside", counted)
    with reading(made.journal.path) as seen:
        made.until(lambda: "reads an older state" in str([vars(record) for record in caplog.records]))
        before, tried = len(made.ids), tries
        while len(made.ids) < before + 100:
            made.publish()
        assert tries == tried, "tried again after a while, not with every turn"
        made.alone.clock.pass_(AGAIN_S)
        made.until(lambda: tries > tried and made.checkpoints._again_at > made.alone.clock.monotonic_s)
        assert len(caplog.records) == 1, "it is said once"
        assert made.anew == 0
        assert seen() < before
    made.alone.clock.pass_(AGAIN_S)
    made.until(lambda: made.anew > 0)


@contextmanager
def reading(path: Path) -> Iterator[Callable[[], int]]:
    """A transaction of somebody else, who sees what there was at its beginning."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    db.execute("BEGIN")

    def seen() -> int:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])

    seen()
    yield seen
    db.close()


def test_ac34_a_full_disk_at_a_checkpoint_is_said_and_tried_again_and_the_log_keeps_what_it_has(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise NoSpace

    with monkeypatch.context() as broken:
        broken.setattr(made.journal, "copy_beside", full)
        made.until(lambda: bool(caplog.records))
        assert "the disk is full" in str(vars(caplog.records[0]))
        for _ in range(50):
            made.publish()
        assert len(caplog.records) == 1
    made.alone.clock.pass_(AGAIN_S)
    made.until(lambda: made.anew > 0)


def test_fault06_a_disk_that_fails_under_the_thread_ends_the_broker(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        made.until(lambda: False)


def test_fault06_after_a_failed_sync_of_the_thread_the_journal_is_not_closed(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        made.until(lambda: made.checkpoints._copying is not None)
        with pytest.raises(OSError, match="Input/output error"):
            made.checkpoints.close()
    assert made.journal.last_offset() == len(made.ids), "it is open"


def test_when_no_thread_copies_a_commit_does_it_by_itself_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FALLBACK_PAGES", 2 * PAGES)
    made = Made(tmp_path / "journal.db")
    made.alone.engine.upkeep.checkpoints = None
    made.until(lambda: made.anew > 0)
    assert 2 * PAGES <= made.longest < 2 * PAGES + 20
    made.checkpoints.close()


def test_compaction_waits_for_the_thread_and_the_log_is_as_long_as_before(made: Made) -> None:
    made.until(lambda: made.checkpoints._copying is not None)
    made.alone.engine.upkeep.compact()
    assert made.journal.sizes()[1] > 0
    made.length, _ = made.checkpoints.log()
    made.until(lambda: made.anew >= 2)


def test_fault02_a_power_cut_while_the_thread_copies_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    acknowledged: set[str] = set()
    for seed in range(int(os.environ.get("MC_COPYING_CUTS", "12"))):
        ended = subprocess.run(
            [sys.executable, "-m", "tests.faults.power_cut_while_copying", path, str(seed)],
            capture_output=True, text=True, timeout=60,
        )
        assert ended.returncode == 9, ended
        acknowledged |= set(ended.stdout.split())
        assert check(path) == [], seed
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        stored = {message_id.hex() for (message_id,) in db.execute("SELECT id FROM messages")}
        db.close()
        assert acknowledged <= stored, seed
    assert len(acknowledged) > 1_000
