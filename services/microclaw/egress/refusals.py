"""Why requests in tunnels that egress reads were refused, for the agent: many programs say "403" and keep the reason.

Outside of tunnels the relay reads the reasons by itself as they pass; what is in TLS it can't, and asks for it.
"""

from __future__ import annotations

import json
from collections import deque

import h11

from microclaw.egress.connection import answer
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Wire

#: Kept of one worker until it asks; the oldest are dropped.
KEPT_MAX = 50
#: Of one reason.
CHARS_MAX = 500


class Refusals:
    """Each worker's own."""

    def __init__(self) -> None:
        self._by_worker: dict[str, deque[tuple[int, str]]] = {}

    def note(self, owner: Owner, status: int, reason: str) -> None:
        """It was told so in a tunnel."""
        self._by_worker.setdefault(owner.worker_id, deque(maxlen=KEPT_MAX)).append((status, reason[:CHARS_MAX]))

    async def handle(self, owner: Owner, wire: Wire, _request: h11.Request) -> bool:
        """`GET /refusals`: a list of (status, reason) since it was last asked for, oldest first. :raises Closed:"""
        said = list(self._by_worker.pop(owner.worker_id, ()))
        await answer(wire, 200, json.dumps(said).encode(), [], phrase=b"OK")
        return False

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        self._by_worker.pop(worker_id, None)
