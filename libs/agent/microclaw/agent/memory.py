"""The memory files that every turn is told of: which, in which order, and how much of them.

They lie in folders that agents write in, so nothing there is followed: a link, a pipe or a folder under one of these
names counts as absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from microclaw.agent.workspace import Workspace, read_text
from microclaw.core.memory_files import DAYS_FOLDER, NAMES, PRIVATE_NAME

#: Of a longer file only the beginning is told, of a day's notes only the end (the newest is there), in bytes.
FILE_BYTES_MAX = 32_000
DAY_BYTES_MAX = 8_000
#: Of all files together; what comes later in the order is left out, with a note.
ALL_BYTES_MAX = 128_000


def memory(workspace: Workspace, *, is_main: bool, now: datetime) -> Iterator[str]:
    """The sections of the system prompt, in their order. `now` is the owner's wall clock."""
    told: set[str] = set()
    left = ALL_BYTES_MAX
    for title, text in _files(workspace, is_main=is_main, now=now):
        if not text or text in told:
            continue  # CLAUDE.md and AGENTS.md are often the same file
        told.add(text)
        size = len(text.encode())
        if size > left:
            yield f"# {title}\n[left out: the memory files are too long together; read it if you need it]"
            continue
        left -= size
        yield f"# {title}\n{text}"


def _files(workspace: Workspace, *, is_main: bool, now: datetime) -> Iterator[tuple[str, str]]:
    for folder, title in ((workspace.shared, "Shared memory"), (workspace.group, "This group's memory")):
        for name in NAMES:
            yield f"{title} ({folder.name}/{name})", _beginning(folder / name)
    if is_main:
        group = workspace.group
        yield f"Long-term memory ({group.name}/{PRIVATE_NAME})", _beginning(group / PRIVATE_NAME)
        # Yesterday's and today's.
        for day in (now - timedelta(days=1), now):
            name = f"{day:%Y-%m-%d}.md"
            yield f"Notes of {day:%A} ({group.name}/{DAYS_FOLDER}/{name})", _end(group / DAYS_FOLDER, name)


def _beginning(path: Path) -> str:
    try:
        text, cut = read_text(path, FILE_BYTES_MAX)
    except OSError:
        return ""  # not there, or not a file: then there is nothing to remember
    return text.strip() + (f"\n[only the first {FILE_BYTES_MAX} bytes]" if cut else "")


def _end(folder: Path, name: str) -> str:
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text, cut = read_text(Path(name), DAY_BYTES_MAX, folder=at, from_end=True)
    except OSError:
        return ""
    finally:
        os.close(at)
    return (f"[only the last {DAY_BYTES_MAX} bytes]\n" if cut else "") + text.strip()
