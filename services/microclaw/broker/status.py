"""What the broker answers of itself."""

from __future__ import annotations

import os

import msgspec

from microclaw.bus.engine import Engine
from microclaw.core.requests import Failed, ServiceStatus, StatusAsked


class Status:
    """Answers `service.status` for the broker."""

    def __init__(self, engine: Engine, started_ms: int) -> None:
        self._engine = engine
        self._started_ms = started_ms

    def answer(self, body: bytes, _asker: str) -> msgspec.Struct:
        """The answer to a request to the broker itself."""
        try:
            msgspec.msgpack.decode(body, type=StatusAsked)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return Failed(reason=f"the broker does not answer that: {error}")
        facts: dict[str, str | int | float | bool] = dict(self._engine.facts())
        troubles = []
        if facts["no_space"]:
            troubles.append("the disk is full: nothing is accepted until there is room")
        if facts["dead"]:
            troubles.append(f"{facts['dead']} dead letters: `microclaw bus dlq ls` shows them")
        return ServiceStatus(
            service="broker", pid=os.getpid(), started_ms=self._started_ms, ready=True, facts=facts,
            troubles=tuple(troubles),
        )
