"""The e-mail connector's wiring."""

from __future__ import annotations

from microclaw.bus.service import Service, now_ms
from microclaw.channel.open import open_channel
from microclaw.email.inbound import Inbound
from microclaw.email.outbound import Outbound
from microclaw.email.threads import Threads


async def serve(service: Service) -> None:
    """The connector's life."""
    settings = service.settings.channels.email
    async with open_channel(service) as channel:
        threads = Threads(channel.notes)
        outbound = Outbound(channel, settings, threads, service.settings.assistant.name, now_ms)
        outbound.forget()
        inbound = Inbound(channel, settings, threads, now_ms)
        await channel.run(outbound, inbound.connect)
