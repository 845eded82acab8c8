from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError

from microclaw.core.disk import Unwritable, check_writable, disk_trouble, unwritable


@pytest.mark.parametrize(("number", "remedy"), [
    (errno.EROFS, "remount,rw"), (errno.ENOSPC, "make room"), (errno.EACCES, "chown"), (errno.EIO, "dmesg"),
    (errno.ELOOP, "look at the disk"), (0, "look at the disk"),
])  # fmt: skip
def test_it_says_what_why_and_what_to_do_in_one_line(number: int, remedy: str) -> None:
    said = str(unwritable(OSError(number, os.strerror(number), "/data/journal.db")))
    assert said.startswith("/data/journal.db can't be written (")
    assert remedy in said and "\n" not in said


def test_a_folder_that_takes_nothing_is_told_and_one_that_does_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unwritable, match="gone can't be written"):
        check_writable(tmp_path / "gone")


def test_a_disks_trouble_is_seen_through_whatever_wraps_it() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.execute("CREATE TABLE t (x)").execute("INSERT INTO t VALUES (zeroblob(99999))")
    wrapped = RuntimeError("told by somebody else")
    wrapped.__cause__ = DatabaseError("INSERT", None, full.value)
    assert disk_trouble(wrapped) == "the disk is full: make room"
    assert "read-only" in disk_trouble(OSError(errno.EROFS, "x"))
    for other in (OSError(errno.ECONNREFUSED, "x"), ValueError("x"), sqlite3.OperationalError("no such table: t")):
        assert disk_trouble(other) == ""
