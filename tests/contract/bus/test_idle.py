"""A broker with nothing to do does nothing, whatever state its messages are in."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from tests.broker_process import BrokerProcess

from microclaw.bus.api import Draft, Subscription
from microclaw.core.kinds import ReplyRequested

#: Of one processor, while ten clients say twice a second that they are there.
IDLE_SHARE_MAX = 0.08
MEASURED_S = 3.0


def cpu_s(broker: BrokerProcess) -> float:
    assert broker.process is not None
    with open(f"/proc/{broker.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a process's time is seen in /proc only")
async def test_messages_that_wait_in_every_way_cost_an_idle_broker_nothing(broker: BrokerProcess, connect) -> None:
    def draft(n: int, **more: int) -> Draft:
        return Draft(f"s{n % 7}", ReplyRequested(chat="s", text=str(n)), **more)

    async def settle_oddly() -> None:
        clients = [await connect(f"c{n}") for n in range(10)]
        now_ms = time.time_ns() // 1_000_000
        await clients[0].publish(
            *(draft(n) for n in range(40)), *(draft(n, not_before_ms=now_ms + 3_600_000) for n in range(20)),
            *(draft(n, expires_ms=now_ms - 1) for n in range(20)),
            *(draft(n, expires_ms=now_ms + 500) for n in range(20)),
        )
        for n in range(20):
            stream = clients[n % 10].subscribe(
                Subscription(f"g{n}", ("reply.*",) if n % 5 else ("never.said",), max_in_flight=1 + n % 3)
            )
            if not n % 5:
                continue
            delivery = await asyncio.wait_for(anext(stream), 20)
            match n % 4:
                case 0:
                    await clients[n % 10].nack(delivery, delay_ms=3_600_000)
                case 1:
                    await clients[n % 10].term(delivery, "never")
                case 2:
                    await clients[n % 10].ack(delivery)
            if n > 15:
                await stream.aclose()
        pages = [clients[n].replay(f"s{n}", 0) for n in range(3)]
        for page in pages:
            await anext(page)

    await settle_oddly()
    broker.restart()
    await settle_oddly()
    await asyncio.sleep(1)
    before = cpu_s(broker)
    await asyncio.sleep(MEASURED_S)
    assert cpu_s(broker) - before < IDLE_SHARE_MAX * MEASURED_S
