"""A world outside with names of our choice: public addresses that are dialled at a server of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from microclaw.egress.dial import World
from microclaw.egress.upstream import Streams, dial_plain

#: A public address; the test's dial leads it to 127.0.0.1.
PUBLIC = "93.184.215.14"


class Outside:
    """Names, where they lead, and what was dialled."""

    def __init__(self, names: dict[str, list[str]], port: int = 0) -> None:
        self.names = names
        self.port = port
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        """What the resolver says now."""
        self.resolved.append(host)
        await asyncio.sleep(0)
        if host not in self.names:
            raise OSError(-2, "Name or service not known")
        return self.names[host]

    async def dial(self, address: str, port: int) -> Streams:
        """Every address is the test's server; which one was asked for is noted."""
        self.dialled.append((address, port))
        return await dial_plain("127.0.0.1", self.port)

    def world(self, is_own: Callable[[str], bool] = lambda _address: False) -> World:
        """As egress sees it."""
        return World(resolve=self.resolve, dial=self.dial, is_own=is_own)
