from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from microclaw.core.disk import Unwritable, check_writable, unwritable


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
