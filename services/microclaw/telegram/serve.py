"""Telegram's wiring."""

from __future__ import annotations

from aiogram.methods import SendChatAction

from microclaw.bus.service import Service
from microclaw.channel.open import open_channel
from microclaw.telegram.addresses import Moves
from microclaw.telegram.api import Api
from microclaw.telegram.inbound import Reader
from microclaw.telegram.outbound import Outbound
from microclaw.telegram.polling import Polling
from microclaw.telegram.preview import Preview

#: Telegram shows "typing…" for 5 s.
TYPING_EVERY_S = 4.0


async def serve(service: Service) -> None:
    """The bot's life."""
    async with open_channel(service) as channel, Api(service.settings.channels.telegram.api_url) as api:
        moves = Moves(channel.notes)
        preview = Preview(api, moves)
        outbound = Outbound(api, channel.media, moves)
        polling = Polling(channel, api, Reader(api, channel, moves))

        async def show_typing(chat: str) -> None:
            place = moves.place(chat)
            await api.call(SendChatAction(
                chat_id=place.chat_id, message_thread_id=place.thread or None, action="typing",
            ))

        await channel.run(
            outbound, polling.connect, show_typing=show_typing, typing_every_s=TYPING_EVERY_S, preview=preview,
        )
