from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from queue import Queue

import pytest

from microclaw.cli.log_lines import for_people
from microclaw.cli.logs import follow, last_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "router.log"
    path.write_text("one\ntwo\n")
    return path


def followed(path: Path) -> Queue[str]:
    """Lines as `follow` yields them, from a thread that ends with the test run."""
    lines: Queue[str] = Queue()
    (begin, _) = last_lines(path, 0)

    def pump(source: Iterator[str]) -> None:
        for line in source:
            lines.put(line)

    threading.Thread(target=pump, args=(follow(path, begin),), daemon=True).start()
    return lines


def test_the_last_lines_reach_back_into_the_rotated_file(log: Path) -> None:
    log.with_name("router.log.1").write_text("a\nb\n")
    assert last_lines(log, 3)[1] == ["b", "one", "two"]
    assert last_lines(log, 0)[1] == []
    assert last_lines(log, 99)[1] == ["a", "b", "one", "two"]


def test_a_followed_log_gives_every_whole_line_once_and_survives_rotation(log: Path) -> None:
    lines = followed(log)
    with log.open("a") as file:
        file.write("three\nfo")
        file.flush()
        assert lines.get(timeout=10) == "three"
        file.write("ur\n")
    assert lines.get(timeout=10) == "four"
    with log.open("a") as file:
        file.write("last of the old\n")
    log.rename(log.with_name("router.log.1"))
    log.write_text("first of the new\n")
    assert [lines.get(timeout=10), lines.get(timeout=10)] == ["last of the old", "first of the new"]


def test_a_line_of_another_day_has_its_date_and_none_of_them_commands_the_terminal() -> None:
    today = datetime.now().astimezone()
    old = today - timedelta(days=2)
    line = json.dumps({"ts": old.isoformat(), "level": "info", "event": "x", "who": "a\x1b[2J"})
    assert for_people(line) == f"{old:%Y-%m-%d %H:%M:%S}.{old.microsecond // 1000:03d} info    x  who=\"a\\u001b[2J\""
    line = json.dumps({"ts": today.isoformat(), "level": "info", "event": "x"})
    assert for_people(line) == f"{today:%H:%M:%S}.{today.microsecond // 1000:03d} info    x"


def test_a_followed_log_that_is_emptied_is_read_from_its_begin(log: Path) -> None:
    lines = followed(log)
    with log.open("r+") as file:
        file.truncate(0)
    with log.open("a") as file:
        file.write("anew\n")
    assert lines.get(timeout=10) == "anew"


def test_our_lines_are_made_readable_and_others_stay() -> None:
    line = '{"ts": "2026-01-02T03:04:05.678+00:00", "level": "warning", "service": "x", "event": "hm", "n": 1}'
    assert for_people(line).endswith(".678 warning hm  n=1")
    for other in ("Traceback (most recent call last):", "{}", "[1]", '{"ts": 5}', ""):
        assert for_people(other) == other
