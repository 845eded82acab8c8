"""How a part of a reply goes to Discord, and how to find out about one that may have got there.

Each part has a nonce made of its key. Within the next few minutes Discord takes no second message of the same nonce but
names the first one; and what is there can be read back. So a part in doubt is looked up: by its nonce where the gateway
has told of it, else in the history, by its author and its content.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from typing import TypedDict

import aiohttp
from hikari import errors
from hikari.api.rest import RESTClient
from hikari.files import Bytes
from hikari.messages import Message
from hikari.undefined import UNDEFINED

from microclaw.bus.errors import Refused
from microclaw.channel.ledger import Entry
from microclaw.channel.open import Channel
from microclaw.channel.platform import Fate, Gone, Limits, NotSent, Rejected, Unsure
from microclaw.core.splitting import utf16_length
from microclaw.core.token_bucket import Rate
from microclaw.discord.markdown import discord_markdown
from microclaw.discord.snowflakes import first_of

#: Longest text of a message.
TEXT_MAX = 2000
#: Messages of ours whose nonce the gateway told, remembered.
OWN_MAX = 1_000
#: The history is searched from so long before the part was sent, ms: the clocks may differ; and at most so far back.
CLOCKS_APART_MS = 15 * 60_000
SEARCH_MESSAGES_MAX = 500


class _Pings(TypedDict):
    mentions_everyone: bool
    user_mentions: bool
    role_mentions: bool
    mentions_reply: bool


#: Nobody is ever called by what an agent says: not @everyone, no role, no person.
NO_PINGS = _Pings(mentions_everyone=False, user_mentions=False, role_mentions=False, mentions_reply=False)


class Sender:
    """The platform as the kit wants it."""

    #: Discord allows 50 requests a second in all; of a channel it tells its own limits with each answer, and hikari
    #: waits for them. This is only so that nothing piles up there.
    limits = Limits(
        text_max=TEXT_MAX, everywhere=Rate(per_s=40, burst=40), chat=Rate(per_s=5, burst=5),
        measure=lambda text: utf16_length(discord_markdown(text)),
    )

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._own: OrderedDict[str, str] = OrderedDict()
        #: While connected: how to ask Discord, and who we are.
        self.rest: RESTClient | None = None
        self.user = 0

    def seen_own(self, nonce: str, message_id: str) -> None:
        """The gateway told of a message with this nonce: only ours have one."""
        self._own[nonce] = message_id
        if len(self._own) > OWN_MAX:
            self._own.popitem(last=False)

    async def send(self, entry: Entry) -> str:
        """One part."""
        rest, channel = self.connected(), channel_of(entry.chat)
        if entry.part.edits:
            return await self._edit(rest, channel, entry)
        text, file = discord_markdown(entry.part.text), None
        if entry.part.file is not None:
            try:
                data = await self._channel.media.read(entry.part.file)
            except Refused as reason:
                raise Rejected(f"the file {entry.part.file.name} is not kept any more: {reason}") from reason
            file = Bytes(data, entry.part.file.name, entry.part.file.mime)
        try:
            message = await rest.create_message(
                channel, text or UNDEFINED, attachment=file or UNDEFINED, nonce=nonce_of(entry.key),
                reply=int(entry.reply_to) if entry.reply_to.isdigit() else UNDEFINED, reply_must_exist=False,
                **NO_PINGS,
            )
        except (errors.HTTPError, errors.ComponentStateConflictError) as error:
            raise what_it_means(error, channel) from error
        return str(message.id)

    async def find(self, entry: Entry) -> str | Fate:
        """By its nonce, else in the history."""
        if (known := self._own.get(nonce_of(entry.key))) is not None:
            return known
        rest, channel = self.connected(), channel_of(entry.chat)
        oldest = first_of(entry.changed_ms - CLOCKS_APART_MS)
        looked_at = 0
        try:
            async for message in rest.fetch_messages(channel).limit(SEARCH_MESSAGES_MAX):
                looked_at += 1
                if message.id < oldest:
                    break
                if self._is_it(message, entry):
                    return str(message.id)
            else:
                if looked_at == SEARCH_MESSAGES_MAX:
                    return Fate.UNKNOWABLE  # it may stand further back
        except (errors.ForbiddenError, errors.NotFoundError):
            return Fate.UNKNOWABLE
        except (errors.HTTPError, errors.ComponentStateConflictError) as error:
            raise NotSent(f"the history can't be read: {_line(error)}") from error
        # It is not there; should it still be on its way inside Discord, the nonce keeps it from being there twice.
        return Fate.SEND_AGAIN

    async def show_typing(self, chat: str) -> None:
        """For ten seconds."""
        await self.connected().trigger_typing(channel_of(chat))

    async def _edit(self, rest: RESTClient, channel: int, entry: Entry) -> str:
        """Make the message that showed the answer the answer."""
        try:
            await rest.edit_message(channel, int(entry.part.edits), discord_markdown(entry.part.text), **NO_PINGS)
        except (errors.HTTPError, errors.ComponentStateConflictError) as error:
            meaning = what_it_means(error, channel)
            raise (Gone(str(meaning)) if isinstance(meaning, Rejected) else meaning) from error
        return entry.part.edits

    def connected(self) -> RESTClient:
        """Raises NotSent."""
        if self.rest is None:
            raise NotSent("not connected to Discord")
        return self.rest

    def _is_it(self, message: Message, entry: Entry) -> bool:
        if message.author.id != self.user or self._channel.ledger.is_ours(entry.chat, str(message.id)):
            return False
        if (file := entry.part.file) is not None:
            # Discord changes names of files, never their size.
            return any(each.size == file.size_bytes for each in message.attachments)
        return _bare(message.content or "") == _bare(discord_markdown(entry.part.text))


def nonce_of(key: str) -> str:
    """22 characters (Discord takes 25), the same for the same part, for no other."""
    return base64.urlsafe_b64encode(hashlib.blake2b(key.encode(), digest_size=16).digest()).decode().rstrip("=")


def channel_of(chat: str) -> int:
    """The channel's number. Raises Rejected: it is none."""
    number = chat.partition(":")[2]
    if not number.isdigit():
        raise Rejected(f"{chat} is no Discord channel: discord:NUMBER")
    return int(number)


def what_it_means(error: Exception, channel: int) -> Exception:
    """What is known of a message after this."""
    match error:
        case errors.RateLimitTooLongError():
            return NotSent("Discord says that we are too fast", error.retry_after, everywhere=error.is_global)
        case errors.UnauthorizedError():
            return NotSent("Discord does not accept the token")
        case errors.ForbiddenError():
            return Rejected(
                f"Discord does not let the bot write in {channel}: {_line(error)} (it needs View Channels, Send "
                "Messages and, in threads, Send Messages in Threads)"
            )
        case errors.ClientHTTPResponseError(status=413):
            return Rejected("the file is too large for Discord")
        case errors.ClientHTTPResponseError(status=429):
            return NotSent("Discord turns us away for the moment")
        case errors.ClientHTTPResponseError():
            return Rejected(f"Discord refused it: {_line(error)}")
        case errors.ComponentStateConflictError():
            return NotSent("not connected to Discord")
        case errors.HTTPError() if isinstance(error.__cause__, aiohttp.ClientConnectorError):
            return NotSent("Discord can't be reached")
        case _:
            return Unsure(_line(error))


def _line(error: Exception) -> str:
    reason = getattr(error, "message", "") or str(error) or type(error).__name__
    return " ".join(str(reason).split())[:300]


def _bare(text: str) -> str:
    """Without what Discord may change: white space."""
    return "".join(text.split())
