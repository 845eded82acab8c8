from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from tests.broker_process import BrokerProcess

from microclaw.bus.api import Bus

Connect = Callable[[str], Awaitable[Bus]]


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    broker = BrokerProcess().start()
    yield broker
    broker.close()


@pytest.fixture
async def connect(broker: BrokerProcess) -> AsyncIterator[Connect]:
    open_: list[Bus] = []

    async def make(name: str) -> Bus:
        bus = await broker.bus(name)
        open_.append(bus)
        return bus

    yield make
    for bus in open_:
        await bus.close()
