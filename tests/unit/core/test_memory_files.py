"""What a turn is told of the memory files: in one order, each text once, bounded."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from microclaw.core.memory_files import (
    ALL_BYTES_MAX,
    DAY_BYTES_MAX,
    FILE_BYTES_MAX,
    NAMES,
    guarded,
    is_day,
)
from microclaw.core.memory_files import told as all_told

#: 2026-11-23 23:30 UTC: in Berlin it is the 24th already.
NOW = datetime.fromtimestamp(1_795_476_600, ZoneInfo("Europe/Berlin"))


def told(own: dict[str, bytes], shared: dict[str, bytes] | None = None, *, is_main: bool = False) -> str:
    return all_told(shared or {}, own, is_main=is_main, now=NOW)


def test_every_memory_file_of_both_folders_is_told_in_one_order() -> None:
    shared = {name: f"says global {name}".encode() for name in reversed(NAMES)}
    text = told({name: f"says group {name}".encode() for name in reversed(NAMES)}, shared)
    places = [text.index(f"says {folder} {name}") for folder in ("global", "group") for name in NAMES]
    assert places == sorted(places)


def test_long_term_memory_is_told_in_the_owners_group_alone() -> None:
    own = {"MEMORY.md": b"the owner's secret wish"}
    own |= {f"memory/2026-11-{day}.md": f"notes of the {day}.".encode() for day in ("22", "23", "24", "25")}
    private = told(own, {"MEMORY.md": b"nobody's"}, is_main=True)
    assert "secret wish" in private
    assert private.index("notes of the 23.") < private.index("notes of the 24.")
    assert "notes of the 22." not in private and "notes of the 25." not in private
    assert not any(part in told(own) for part in ("secret wish", "notes of", "nobody's"))


def test_the_same_text_under_two_names_is_told_once() -> None:
    assert told(dict.fromkeys(("CLAUDE.md", "AGENTS.md"), b"Ana is allergic to nuts.\n")).count("allergic") == 1


def test_one_file_and_all_together_are_bounded_as_a_line_to_the_worker_has_them() -> None:
    own = {
        "CLAUDE.md": b"m" * (FILE_BYTES_MAX + 5),
        "memory/2026-11-24.md": b"morning " * DAY_BYTES_MAX + b"newest",
    }
    assert f"[only the first {FILE_BYTES_MAX} bytes]" in told(own)
    text = told(own, is_main=True)
    assert f"[only the last {DAY_BYTES_MAX} bytes]" in text and "newest" in text
    for filler in (b"%d", b"\x01%d", b"\xff%d"):
        shared = {name: (filler % number) * (FILE_BYTES_MAX // 2) for number, name in enumerate(NAMES)}
        text = told(own, shared, is_main=True)
        assert "left out" in text and len(msgspec.json.encode(text)) < ALL_BYTES_MAX + 8_000


def test_what_is_guarded_is_what_is_told_and_the_heartbeats_orders() -> None:
    assert guarded(is_shared=True, is_main=True) == guarded(is_shared=False, is_main=False) == NAMES
    assert set(guarded(is_shared=False, is_main=True)) - set(NAMES) == {"MEMORY.md", "HEARTBEAT.md"}
    assert is_day("2026-11-24.md") and not is_day("2026-11-24.md.bak") and not is_day("x2026-11-24.md")
