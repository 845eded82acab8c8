"""The queue's view of requests and grants: it carries messages and tasks, it does not read them.

What it hands on is byte for byte what it was given, so a newer router's fields reach a newer sandbox through an older
queue.
"""

from __future__ import annotations

import msgspec

from microclaw.core.kinds import RunGranted, RunRequested

#: An encoded nil. (msgspec has no `Raw | None`.)
NOTHING = msgspec.Raw(b"\xc0")


class OpaqueRequested(RunRequested, frozen=True, kw_only=True, tag="run.requested"):
    """`run.requested` with its contents left encoded."""

    messages: tuple[msgspec.Raw, ...] = ()  # type: ignore[assignment]
    task: msgspec.Raw = NOTHING  # type: ignore[assignment]


class OpaqueGranted(RunGranted, frozen=True, kw_only=True, tag="run.granted"):
    """`run.granted` with its contents as they came."""

    messages: tuple[msgspec.Raw, ...] = ()  # type: ignore[assignment]
    task: msgspec.Raw = NOTHING  # type: ignore[assignment]


class FireName(msgspec.Struct, frozen=True):
    """What the queue must know of a task: which fire it is."""

    task_id: str
    due_ms: int


def is_there(content: msgspec.Raw) -> bool:
    """Whether it is more than a nil."""
    return bytes(content) != bytes(NOTHING)


def fire_name(task: msgspec.Raw) -> FireName:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return msgspec.msgpack.decode(task, type=FireName)
