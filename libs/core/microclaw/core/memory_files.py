"""What agents remember by: the files in the groups' folders and in the one that all groups share, and what of their
content every turn is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from microclaw.core.heartbeat import FILE_NAME

#: Read at every turn, in this order, the shared folder's first: who the assistant is, whom it serves, what it should
#: know, how it works here.
NAMES = ("IDENTITY.md", "SOUL.md", "USER.md", "CLAUDE.md", "AGENTS.md", "TOOLS.md")
#: In the main group's folder alone: what the owner said in private is nothing for the others.
PRIVATE_NAME = "MEMORY.md"
#: Notes of a day, `memory/YYYY-MM-DD.md`, in the main group.
DAYS_FOLDER = "memory"
#: Pages of earlier conversations.
CONVERSATIONS_FOLDER = "conversations"
#: The folder of all groups, beside theirs.
SHARED_FOLDER = "global"

#: A longer file is no memory: it is neither told nor kept, bytes.
KEPT_BYTES_MAX = 128 << 10
#: Of a longer file only the beginning is told, of a day's notes only the end (the newest is there), in bytes.
FILE_BYTES_MAX = 32_000
DAY_BYTES_MAX = 8_000
#: Of all files together, in bytes as JSON, as a line to the worker has them; what comes later in the order is left out,
#: with a note.
ALL_BYTES_MAX = 128_000

_DAY = re.compile(r"\d{4}-\d\d-\d\d\.md", re.ASCII)


def is_day(name: str) -> bool:
    """Whether a file of `DAYS_FOLDER` is a day's notes."""
    return _DAY.fullmatch(name) is not None


def guarded(*, is_shared: bool, is_main: bool) -> tuple[str, ...]:
    """The names in a folder that change only as `core.memory_changes` says; in main the days' notes too."""
    if is_shared:
        return NAMES
    # What the heartbeat looks at is not told at every turn, but a standing order all the same.
    return (*NAMES, PRIVATE_NAME, FILE_NAME) if is_main else NAMES


def told(shared: Mapping[str, bytes], own: Mapping[str, bytes], *, is_main: bool, now: datetime) -> str:
    """What a turn is told of these files (name in the folder → content). `now` is the owner's wall clock."""
    return "\n\n".join(_sections(shared, own, is_main=is_main, now=now))


def _sections(
    shared: Mapping[str, bytes], own: Mapping[str, bytes], *, is_main: bool, now: datetime
) -> Iterator[str]:
    seen: set[str] = set()
    left = ALL_BYTES_MAX
    for title, text in _files(shared, own, is_main=is_main, now=now):
        if not text or text in seen:
            continue  # CLAUDE.md and AGENTS.md are often the same file
        seen.add(text)
        size = len(msgspec.json.encode(text))
        if size > left:
            yield f"# {title}\n[left out: the memory files are too long together; read it if you need it]"
            continue
        left -= size
        yield f"# {title}\n{text}"


def _files(
    shared: Mapping[str, bytes], own: Mapping[str, bytes], *, is_main: bool, now: datetime
) -> Iterator[tuple[str, str]]:
    for files, title in ((shared, "Shared memory (global"), (own, "This group's memory (group")):
        for name in NAMES:
            yield f"{title}/{name})", _beginning(files.get(name, b""))
    if is_main:
        yield f"Long-term memory (group/{PRIVATE_NAME})", _beginning(own.get(PRIVATE_NAME, b""))
        # Yesterday's and today's.
        for day in (now - timedelta(days=1), now):
            name = f"{DAYS_FOLDER}/{day:%Y-%m-%d}.md"
            yield f"Notes of {day:%A} (group/{name})", _end(own.get(name, b""))


def _beginning(raw: bytes) -> str:
    text = raw[:FILE_BYTES_MAX].decode("utf-8", "replace").strip()
    return text + (f"\n[only the first {FILE_BYTES_MAX} bytes]" if len(raw) > FILE_BYTES_MAX else "")


def _end(raw: bytes) -> str:
    text = raw[-DAY_BYTES_MAX:].decode("utf-8", "replace").strip()
    return (f"[only the last {DAY_BYTES_MAX} bytes]\n" if len(raw) > DAY_BYTES_MAX else "") + text
