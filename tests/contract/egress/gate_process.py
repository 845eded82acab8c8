"""All of egress but the bus in a process of its own, so that its memory can be looked at, and it be killed.

    python -m tests.contract.egress.gate_process PORT DOORS [RULE CA READ_TLS]

`good.example` is the server on that port of 127.0.0.1, RULE what is allowed, CA the authority that is trusted,
READ_TLS the setting ("none").

Says the doors' folders, one a line, then lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from dataclasses import replace

from tests.contract.egress.outside import PUBLIC, Outside
from tests.contract.egress.through_door import gate

from microclaw.core.egress_rules import ReadTls
from microclaw.core.home import home_from
from microclaw.egress.http_messages import Limits
from microclaw.egress.privacy import hold_many_sockets
from microclaw.egress.tunnel import TunnelLimits


async def main(
    port: int, doors: int, rule: str = "good.example", authority: str | None = None, read_tls: ReadTls = "none",
) -> None:
    """Until standard input ends."""
    hold_many_sockets()
    outside = Outside({"good.example": [PUBLIC]}, port)
    world = replace(outside.world(), tls=lambda: ssl.create_default_context(cafile=authority))
    limits = Limits(head_s=1.0, keep_alive_s=5.0, stall_s=5.0)
    async with gate(
        home_from(os.environ), backend="local", allow=[rule], world=world, limits=limits,
        tunnel_limits=TunnelLimits(), read_tls=read_tls,
    ) as egress:
        for number in range(doors):
            print(await egress.doors.open(f"w{number}", "home", now_ms=1), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))  # type: ignore[arg-type]
