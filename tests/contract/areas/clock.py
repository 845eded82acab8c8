"""The scheduler over a real database with a clock of ours, and times as the contract writes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.contract.scheduler.clockwork import Clockwork

from microclaw.core.prompt import iso_utc

NOON = "2026-02-12T12:00:00.000Z"


def ms(text: str) -> int:
    """Unix milliseconds of an ISO instant."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def iso(moment_ms: int | None) -> str | None:
    """The instant as the contract writes it."""
    return None if moment_ms is None else iso_utc(moment_ms)


@contextmanager
def clockwork(*, now: int | None = None, zone: str = "UTC") -> Iterator[Clockwork]:
    """A scheduler of its own."""
    with tempfile.TemporaryDirectory(prefix="mc-clock-") as folder:
        made = Clockwork(Path(folder), now=ms(NOON) if now is None else now, zone=zone)
        try:
            yield made
        finally:
            assert made.engine is not None
            made.engine.dispose()
