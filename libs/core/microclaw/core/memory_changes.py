"""Whose words may become standing memory, and which line of it came from whom. Pure.

A *source* is where words come from: a sender (`telegram:12345`), a chat (`chat:telegram:-100`), a web host
(`web:example.org`), a task (`task:ID`), a tool that lists what others wrote (`tool:list_tasks`), the owner's own hand
(`hand`). A change that was made where only trusted sources were is taken; any other is the owner's to decide.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from microclaw.core.approvals import Action
from microclaw.core.audit import Entry
from microclaw.core.kinds import RunGranted
from microclaw.core.memory_files import DAYS_FOLDER

#: Somebody changed the file while no agent of the group lived.
HAND = "hand"
#: It was there before anybody kept watch.
BEFORE = "before"
#: What the agent reached can't be told.
WEB_UNKNOWN = "web:unknown"
SOURCE_CHARS_MAX = 200
#: Sources of one change, or of one conversation, that are written down one by one.
SOURCES_MAX = 100
MANY = "many others"
#: Of a difference, characters that the owner is shown; `core.approvals` bounds the whole question.
SHOWN_CHARS_MAX = 6000
#: Of the sources' names, in a question.
SHOWN_SOURCES_CHARS = 1000
#: Lines on both sides, multiplied, up to which a difference is worked out by the order of its lines.
COMPARED_MAX = 1_000_000
#: Ways out, in the audit log, by which words come in.
WAYS_IN = ("egress.page", "egress.connect", "egress.http", "egress.websocket")


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Where words come from. Trusted: the owner's, or of somebody whom the owner let in, in their own words."""

    name: str
    is_trusted: bool = False


def source(name: str, *, is_trusted: bool = False) -> Source:
    """A source, its name cut and in one line."""
    return Source(" ".join(name.split())[:SOURCE_CHARS_MAX] or "unknown", is_trusted)


def sources_of(grant: RunGranted, *, is_task_trusted: bool = False) -> tuple[Source, ...]:
    """What a run brings before a word of the model's: whose messages, or which task. `is_task_trusted`: it was made
    where only trusted words were."""
    if grant.task is not None:
        if grant.task.is_heartbeat:
            return (source("heartbeat", is_trusted=True),)
        return (source(f"task:{grant.task.task_id}", is_trusted=is_task_trusted),)
    found = {source(f"chat:{grant.chat}", is_trusted=True)}
    found |= {
        source(message.sender or f"unknown:{message.sender_name}", is_trusted=message.is_trusted)
        for message in grant.messages
    }
    # The same sender may have passed on another one's words: then it is not trusted here.
    return tuple(sorted(each for each in found if not (each.is_trusted and Source(each.name) in found)))


def hosts_of(entries: Iterable[Entry], group: str) -> dict[str, tuple[str, ...]]:
    """Worker → hosts from which words came in to this group's workers, by the audit log."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        worker, _, of_group = entry.actor.partition("@")
        if of_group == group and entry.action in WAYS_IN and entry.outcome == "allow":
            found[worker.removeprefix("worker:")].add(entry.subject.rpartition(":")[0] or entry.subject)
    return {worker: tuple(sorted(hosts)) for worker, hosts in found.items()}


def named(sources: Iterable[str]) -> tuple[str, ...]:
    """Their names, each once, bounded."""
    names = sorted(set(sources))
    return tuple(names) if len(names) <= SOURCES_MAX else (*names[: SOURCES_MAX - 1], MANY)


def digest(content: bytes | None) -> bytes:
    """Names a file's content; b"" = there is no file."""
    return b"" if content is None else hashlib.blake2b(content, digest_size=32).digest()


# --- lines and where they came from ---


def lines_of(content: bytes | None) -> list[bytes]:
    """The lines of a file, each with its end."""
    return (content or b"").splitlines(keepends=True)


def origins_after(
    old: Sequence[bytes], origins: Sequence[int], new: Sequence[bytes], change: int
) -> list[int]:
    """For each line of `new` the change that brought it: a line that was there before keeps its own, wherever it
    moved."""
    known: dict[bytes, deque[int]] = defaultdict(deque)
    for line, origin in zip(old, origins, strict=True):
        known[line.rstrip(b"\r\n")].append(origin)
    return [
        known[bare].popleft() if known.get(bare := line.rstrip(b"\r\n")) else change for line in new
    ]


def without(lines: Sequence[bytes], origins: Sequence[int], changes: Collection[int]) -> tuple[list[bytes], list[int]]:
    """The lines that none of these changes brought, and their origins."""
    kept = [(line, origin) for line, origin in zip(lines, origins, strict=True) if origin not in changes]
    return [line for line, _ in kept], [origin for _, origin in kept]


# --- what the owner is asked ---


def difference(old: bytes | None, new: bytes | None) -> str:
    """What would change, line by line: `- ` is gone, `+ ` is new, `  ` stands before it; moved lines are both."""
    before, after = _shown(old), _shown(new)
    if len(before) * len(after) > COMPARED_MAX:
        return "\n".join(["all of it is replaced by:", *(f"+ {line}" for line in after)])
    out: list[str] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if i1 and (not out or out[-1] != f"  {before[i1 - 1]}"):
            out.append(f"  {before[i1 - 1]}")
        out += [f"- {line}" for line in before[i1:i2]]
        out += [f"+ {line}" for line in after[j1:j2]]
    if old is not None and new is None:
        out.append("(the file is gone)")
    return "\n".join(out) or "(only blanks at the ends of lines, or the last line's end, change)"


def question_of(
    number: int, group: str, where: str, sources: Sequence[str], old: bytes | None, new: bytes | None
) -> Action:
    """The action that the owner is asked about: exactly this content, by its hash, whose difference is shown."""
    shown = difference(old, new)
    if len(shown) > SHOWN_CHARS_MAX:
        shown = f"{shown[:SHOWN_CHARS_MAX]}\n[cut here; all of it: microclaw memory show --held {number}]"
    words = ", ".join(sources)
    words = words if len(words) <= SHOWN_SOURCES_CHARS else words[:SHOWN_SOURCES_CHARS] + "…"
    folder, _, name = where.partition("/")
    if name.startswith(f"{DAYS_FOLDER}/"):
        # An `always` holds for the notes of all days: they are another file each day.
        where, shown = f"{folder}/{DAYS_FOLDER}", f"{name.removeprefix(f'{DAYS_FOLDER}/')}:\n{shown}"
    detail = f"{shown}\n(words of: {words}; content {digest(new).hex()[:16] or 'none'})"
    return Action(kind="memory", group=group, target=where, detail=detail)


def _shown(content: bytes | None) -> list[str]:
    return (content or b"").decode("utf-8", "backslashreplace").splitlines()
