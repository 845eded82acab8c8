"""Credentials lent to agents: sentinels are given out at a door, and real values put in on the way to their hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import h11

from microclaw.core.model_route import Headers
from microclaw.core.sentinels import Binding, found_in, in_body, in_header, in_target, refusal, sentinel
from microclaw.egress.bindings import Bindings
from microclaw.egress.connection import answer
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Wire
from microclaw.egress.secret_store import SecretStore


@dataclass(frozen=True, slots=True)
class Lent:
    """The credentials of one request: their names, and the real values by sentinel."""

    names: tuple[str, ...]
    values: dict[bytes, str]

    def target(self, target: bytes) -> bytes:
        """The path and query."""
        return in_target(target, self.values)

    def headers(self, headers: Headers) -> Headers:
        """All headers."""
        return [(name, in_header(value, self.values)) for name, value in headers]

    def body(self, body: bytes, content_type: str) -> bytes:
        """A whole body."""
        return in_body(body, self.values, content_type)


class Credentials:
    """Gives out and puts in."""

    def __init__(self, secrets: SecretStore, bindings: Bindings, mark: Callable[[Owner], Headers]) -> None:
        """`mark`: headers for whoever asks for the environment."""
        self._secrets = secrets
        self._mark = mark
        self._bindings = bindings

    def environment(self, owner: Owner) -> dict[str, str]:
        """Variable → sentinel, for this worker alone."""
        return {
            item.variable: self._sentinel(owner, item.name) for item in self._bindings.lent_to(owner.group)
            if self._secrets.value(item.name) is not None
        }

    async def handle(self, owner: Owner, wire: Wire, _request: h11.Request) -> bool:
        """`GET /environment`. :raises Closed:"""
        await answer(wire, 200, json.dumps(self.environment(owner)).encode(), self._mark(owner), phrase=b"OK")
        return False

    def lent(self, owner: Owner, host: str, port: int, texts: Iterable[bytes]) -> Lent | str:
        """What is to be put in for the sentinels in `texts`, or why the request must not be sent."""
        seen: set[bytes] = set().union(*(found_in(text) for text in texts))
        if not seen:
            return Lent((), {})
        mine = {
            self._sentinel(owner, item.name).encode(): item for item in self._bindings.lent_to(owner.group)
        }
        names: list[str] = []
        values: dict[bytes, str] = {}
        for stand_in in sorted(seen):
            known: Binding | None = mine.get(stand_in)
            value = self._secrets.value(known.name) if known else None
            if reason := refusal(known if value is not None else None, host, port, owner.group):
                return reason
            if known is not None and value is not None:
                names.append(known.name)
                values[stand_in] = value
        return Lent(tuple(names), values)

    def _sentinel(self, owner: Owner, name: str) -> str:
        return sentinel(self._secrets.sentinel_key, owner.worker_id, name)
