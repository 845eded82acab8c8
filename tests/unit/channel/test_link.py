"""Staying connected: growing pauses, no storm, awake at once after a sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from microclaw.channel import link as link_module
from microclaw.channel.link import Link, LoggedOut, Unreachable, keep_connected


class Script:
    """Connections that end as told, and the pauses between them."""

    def __init__(self, *ends: Callable[[Link], Awaitable[None]]) -> None:
        self.link = Link("chirp", lambda: 1)
        self.pauses: list[float] = []
        self.told: list[str] = []
        self._ends = list(ends)

    async def run(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await keep_connected(
                self.link, self._connect, self.told.append, chance=lambda: 0.0, sleep=self._sleep
            )

    async def _connect(self) -> None:
        if not self._ends:
            raise asyncio.CancelledError
        await self._ends.pop(0)(self.link)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def refused(_link: Link) -> None:
    raise Unreachable("nobody there")


async def welcome_and_gone(link: Link) -> None:
    link.connected("bird")


async def worked_and_gone(link: Link) -> None:
    link.connected("bird")
    link.event()


async def crashed(_link: Link) -> None:
    raise RuntimeError("library")


async def busy(_link: Link) -> None:
    raise Unreachable("too fast", retry_after_s=42.0)


async def thrown_out(_link: Link) -> None:
    raise LoggedOut("the token is wrong")


async def test_pauses_grow_from_failure_to_failure_up_to_a_bound() -> None:
    script = Script(*[refused] * 10)
    await script.run()
    assert script.pauses == [1.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    assert (script.link.state, script.link.trouble) == ("connecting", "nobody there")


async def test_pain10_a_platform_that_welcomes_and_drops_makes_no_storm() -> None:
    script = Script(*[welcome_and_gone] * 4)
    await script.run()
    assert script.pauses == [1.0, 5.0, 10.0, 20.0]


async def test_a_connection_that_worked_makes_the_next_pause_short_again() -> None:
    script = Script(refused, refused, refused, worked_and_gone, refused)
    await script.run()
    assert script.pauses == [1.0, 5.0, 10.0, 1.0, 5.0]


async def test_pain09_a_librarys_exception_ends_nothing_but_the_connection() -> None:
    script = Script(crashed, busy, thrown_out)
    await script.run()
    assert script.pauses == [1.0, 42.0, 300.0]
    assert script.told == ["chirp: the token is wrong"]


async def test_a_secret_that_was_set_is_tried_at_once_also_if_it_was_set_while_the_old_one_still_failed() -> None:
    link = Link("chirp", lambda: 1)
    connections: list[str] = []

    async def connect() -> None:
        connections.append(link.state)
        if len(connections) == 2:
            # Set between the question for the secret and the platform's no.
            link.renewed.set()
        if len(connections) == 4:
            raise asyncio.CancelledError
        raise LoggedOut("the token is wrong")

    async def owner() -> None:
        for tries in (1, 3):
            while len(connections) < tries or link.state != "logged_out":
                await asyncio.sleep(0.001)
            link.renewed.set()

    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(60):
            await asyncio.gather(keep_connected(link, connect, lambda _text: None), owner())
    assert len(connections) == 4


async def test_pain11_after_the_machine_slept_it_connects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is an hour further, the steady clock is not: the connection is dead and does not know it."""
    link = Link("chirp", lambda: 1)
    connections = 0
    wall = 1_000.0
    monkeypatch.setattr(link_module, "SLEEP_CHECK_S", 0.01)
    monkeypatch.setattr(link_module.time, "time", lambda: wall)

    async def connect() -> None:
        nonlocal connections, wall
        connections += 1
        link.connected("bird")
        if connections == 2:
            raise asyncio.CancelledError
        await asyncio.sleep(0.05)
        wall += 3_600
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(30):
            await keep_connected(link, connect, lambda _text: None)
    assert connections == 2
