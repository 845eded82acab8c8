"""What is asked of the queue."""

from __future__ import annotations

import msgspec

from microclaw.core.requests.asking import Request


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    group: str
    state: str
    attempt: int
    since_ms: int
    error: str = ""


class RunsAsked(Request, frozen=True, kw_only=True, tag="runs.list"):
    """To the queue: what runs, waits and lately failed."""

    limit: int = 50


class Runs(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="runs.list.answer"):
    running: tuple[RunRow, ...]
    waiting: tuple[RunRow, ...]
    failed: tuple[RunRow, ...]
