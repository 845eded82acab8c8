"""A consumer in a process of its own: takes messages of group `work`, writes each text to a file, then settles or not.

    python -m tests.contract.bus.consumer_process ADDRESS NAME FILE MODE ACK_WAIT_MS

MODE: `ack` acknowledges and publishes an effect; `hold` keeps what it is given for ever.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from microclaw.bus.api import Draft, Subscription
from microclaw.bus.client import connect
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import ReplyDelivered, ReplyRequested


async def main(address: str, name: str, file: Path, mode: str, ack_wait_ms: int) -> None:
    bus = await connect(address, name, timeout_s=20)
    wants = Subscription("work", ("reply.requested",), ack_wait_ms=ack_wait_ms, max_deliver=1_000, backoff_ms=(0,))
    with file.open("a", buffering=1) as out:
        async for delivery in bus.subscribe(wants):
            cause = delivery.envelope.message_id
            text = delivery.envelope.read(ReplyRequested).text
            out.write(f"{delivery.envelope.session_id} {text} {delivery.count}\n")
            if mode == "ack":
                effect = ReplyDelivered(chat="x:y", reply_id=text, status="sent")
                await bus.ack(delivery, Draft(
                    f"effects:{delivery.envelope.session_id}", effect, message_id=derived_id(id_time(cause), cause)
                ))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
