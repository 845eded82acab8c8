"""What the agents' conversations are, for the owner to look at. The files come out of sandboxes: nothing in them is
followed, and only so much is read."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

import msgspec

from microclaw.agent.transcript import (
    AnyLine,
    CompactedLine,
    DoneLine,
    ModelLine,
    TurnLine,
    UncompactedLine,
    decode_line,
)
from microclaw.core.groups import is_folder
from microclaw.core.requests import Failed, Session, SessionRow, Sessions, SessionTurn

#: Of a transcript, its end.
READ_BYTES_MAX = 4 << 20
#: Turns in one answer, and characters of one text in it.
TURNS_MAX = 200
TEXT_CHARS_MAX = 20_000
#: Characters of all texts in one answer: it has to fit an envelope, whatever its letters.
ANSWER_CHARS_MAX = 200_000
#: A longer conversation is not copied.
FORK_BYTES_MAX = 64 << 20
#: The transcript of a group's conversation, in its folder.
TRANSCRIPT = "group.jsonl"


def sessions(folder: Path, live: Collection[str]) -> Sessions:
    """All, the one that changed last first. `live`: groups that have a worker."""
    found = []
    for entry in folder.iterdir():
        facts = _facts(entry / TRANSCRIPT)
        if facts is not None:
            found.append(SessionRow(
                name=entry.name, size_bytes=facts.st_size, changed_ms=facts.st_mtime_ns // 1_000_000,
                is_live=entry.name in live,
            ))
    return Sessions(sessions=tuple(sorted(found, key=lambda row: (-row.changed_ms, row.name))))


def session(folder: Path, name: str, limit: int, skip: int = 0) -> Session | Failed:
    """The last turns of one, but `skip`; as many of them as fit an answer."""
    path = _transcript(folder, name)
    if path is None:
        return no_conversation(name)
    turns = _turns(_tail(path))
    turns = turns[: max(0, len(turns) - max(0, skip))][-max(1, min(limit, TURNS_MAX)):]
    left = ANSWER_CHARS_MAX
    for number, turn in enumerate(reversed(turns)):
        left -= len(turn.prompt) + len(turn.answer) + len(turn.error)
        if left < 0 and number:
            return Session(turns=tuple(turns[-number:]))
    return Session(turns=tuple(turns))


def fork(folder: Path, name: str, group: str) -> Failed | None:
    """Give the group, which has no session now, a copy of this conversation. None = done."""
    path = _transcript(folder, name)
    if path is None:
        return no_conversation(name)
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(source, "rb") as file:
        if os.fstat(source).st_size > FORK_BYTES_MAX:
            return Failed(reason=f"{name} is larger than {FORK_BYTES_MAX >> 20} MiB: too much to be copied")
        raw = file.read(FORK_BYTES_MAX)
    fresh = folder / f"{group}.fork"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    handle = os.open(fresh / TRANSCRIPT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as copy:
        # A line that is just being written is not taken.
        copy.write(raw[: raw.rfind(b"\n") + 1])
        copy.flush()
        os.fsync(handle)
    fresh.rename(folder / group)
    return None


def exists(folder: Path, name: str) -> bool:
    """Whether there is such a conversation."""
    return _transcript(folder, name) is not None


def _transcript(folder: Path, name: str) -> Path | None:
    group, _, aside = name.partition(".stale-")
    path = folder / name / TRANSCRIPT
    known = is_folder(group) and (not aside or aside.isdigit()) and _facts(path) is not None
    return path if known else None


def no_conversation(name: str) -> Failed:
    """The answer to a name that is none."""
    return Failed(
        reason=f"there is no conversation {name[:70]!r}: `microclaw sessions list` shows them", code="not_found"
    )


def to_archive(folder: Path, group: str) -> list[SessionTurn]:
    """The turns of a group's conversation that are on no page yet."""
    path = folder / group / TRANSCRIPT
    if _facts(path) is None:
        return []
    lines = _tail(path)
    compactions: list[CompactedLine] = []
    for raw in lines:
        match _line(raw):
            case CompactedLine() as line:
                compactions.append(line)
            case UncompactedLine() if compactions:
                compactions.pop()
    paged = {run_id for line in compactions if line.archive for run_id in line.covers}
    return [turn for turn in _turns(lines) if turn.run_id not in paged]


def _facts(path: Path) -> os.stat_result | None:
    try:
        facts = path.lstat()
        folder = path.parent.lstat()
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) and stat.S_ISDIR(folder.st_mode) else None


def _tail(path: Path) -> list[bytes]:
    """The last whole lines."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(handle).st_size
        file.seek(max(0, size - READ_BYTES_MAX))
        lines = file.read(READ_BYTES_MAX).split(b"\n")
    return lines[1 if size > READ_BYTES_MAX else 0:]


def _line(raw: bytes) -> AnyLine | None:
    try:
        return decode_line(raw)
    except msgspec.DecodeError:
        return None  # a torn end, or what an agent wrote there itself


def _turns(lines: list[bytes]) -> list[SessionTurn]:
    turns: dict[str, SessionTurn] = {}
    for raw in lines:
        line = _line(raw)
        if line is None:
            continue
        if isinstance(line, TurnLine):
            turns[line.run_id] = SessionTurn(
                run_id=line.run_id, began_ms=line.now_ms, prompt=line.prompt[:TEXT_CHARS_MAX], answer=""
            )
            continue
        turn = turns.get(line.run_id)
        if turn is None:
            continue
        if isinstance(line, ModelLine):
            tools = (*turn.tools, *(call.name for call in line.said.calls))
            turns[line.run_id] = msgspec.structs.replace(turn, tools=tools[:TURNS_MAX])
        elif isinstance(line, DoneLine):
            turns[line.run_id] = msgspec.structs.replace(
                turn, answer=line.outcome.text[:TEXT_CHARS_MAX], error=line.outcome.error[:TEXT_CHARS_MAX]
            )
    return list(turns.values())
