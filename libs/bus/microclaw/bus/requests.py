"""Questions between clients, undurable: passed on, answered in time or refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from microclaw.bus.calls import Client, Refusal
from microclaw.bus.wire import Op

#: Requests a client may have open.
REQUESTS_MAX = 1_000

#: (routing id, operation): say this to a client.
Say = Callable[[bytes, list[Any]], None]


@dataclass(slots=True)
class _Asked:
    client: Client
    rid: int
    responder: Client
    deadline: float


class Requests:
    """The open questions."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._asked: dict[int, _Asked] = {}
        #: Unlike any of an earlier broker's: a late answer to that one must not answer another question now.
        self._next_bid = int.from_bytes(os.urandom(6), "big")

    def ask(
        self, client: Client, rid: int, service: str, deadline: float, body: bytes, clients: Iterable[Client]
    ) -> None:
        """Pass a question on to whoever serves under that name; `clients` newest first: a service that was started
        anew stands beside its dying predecessor.

        :raises Refusal: nobody does, or too many are open.
        """
        responder = next((other for other in clients if other.name == service and other.serves), None)
        if responder is None:
            raise Refusal("no_responder", f"{service} is not connected to the bus")
        if client.requests >= REQUESTS_MAX:
            raise Refusal("busy", f"{REQUESTS_MAX} requests are open")
        client.requests += 1
        bid, self._next_bid = self._next_bid, self._next_bid + 1
        self._asked[bid] = _Asked(client, rid, responder, deadline)
        self._say(responder.routing, [Op.ASKED, bid, client.name, body])

    def answer(self, client: Client, bid: int, body: bytes) -> None:
        """Only who was asked may answer; a late answer is nobody's."""
        if not isinstance(body, bytes):
            raise TypeError("an answer is bytes")
        asked = self._asked.get(bid)
        if asked is not None and asked.responder is client:
            del self._asked[bid]
            asked.client.requests -= 1
            self._say(asked.client.routing, [Op.REQUEST, asked.rid, body])

    def gone(self, client: Client) -> None:
        """Its questions are void, and those to it are refused at once."""
        for bid, asked in list(self._asked.items()):
            if asked.client is client:
                del self._asked[bid]
            elif asked.responder is client:
                self._refuse(bid, "no_responder", f"{client.name} went away")

    def turn(self, now: float) -> None:
        """Refuse those whose time is over."""
        for bid, asked in list(self._asked.items()):
            if asked.deadline <= now:
                self._refuse(bid, "timeout", "no answer in time")

    def deadlines(self) -> list[float]:
        """When `turn` has something to do, monotonic seconds."""
        return [asked.deadline for asked in self._asked.values()]

    def _refuse(self, bid: int, code: str, why: str) -> None:
        asked = self._asked.pop(bid)
        asked.client.requests -= 1
        self._say(asked.client.routing, [Op.REFUSED, asked.rid, code, why, 0])
