"""What the agent is writing, shown at Discord: a message that grows, and that its answer becomes."""

from __future__ import annotations

from hikari import errors

from microclaw.core.splitting import split_text
from microclaw.discord.markdown import discord_markdown
from microclaw.discord.outbound import NO_PINGS, Sender, channel_of, nonce_of, what_it_means

#: Discord takes about five changes in five seconds, and the answer's own must come through.
EVERY_S = 1.5
#: What the message says before there is anything to say: should it be left alone, nothing is said twice.
FIRST = "…"


class Preview:
    """The showing as the kit wants it."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def every_s(self, _chat: str) -> float:
        """The pause between two."""
        return EVERY_S

    def leaves(self, _chat: str) -> bool:
        """Discord has nothing that passes by itself."""
        return True

    async def show(self, chat: str, run_id: str, text: str, shown: str) -> str:
        """Raises NotSent, Unsure, Rejected."""
        rest, channel, limits = self._sender.connected(), channel_of(chat), self._sender.limits
        try:
            if not shown:
                first = await rest.create_message(channel, FIRST, nonce=nonce_of(f"preview {run_id}"), **NO_PINGS)
                return str(first.id)
            # Of a long one its first part: that is what the message will be.
            if parts := split_text(text, limits.text_max, limits.measure):
                await rest.edit_message(channel, int(shown), discord_markdown(parts[0]), **NO_PINGS)
        except (errors.HTTPError, errors.ComponentStateConflictError) as error:
            raise what_it_means(error, channel) from error
        return shown

    async def remove(self, chat: str, shown: str) -> None:
        """Raises hikari's errors."""
        await self._sender.connected().delete_message(channel_of(chat), int(shown))
