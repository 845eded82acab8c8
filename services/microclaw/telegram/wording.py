"""A message's text as the agent reads it: what Telegram keeps beside the text, in entities, is put where it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from aiogram.types import MessageEntity, User


def worded(text: str, entities: Sequence[MessageEntity], bot: User) -> str:
    """Links that hide behind words are written out, and a command to us loses our name (`/status@our_bot`)."""
    units = text.encode("utf-16-le")  # Telegram counts UTF-16 units
    for entity in sorted(entities, key=lambda each: -each.offset):
        begin, end = entity.offset * 2, (entity.offset + entity.length) * 2
        shown = units[begin:end].decode("utf-16-le", errors="replace")
        if entity.type == "text_link" and entity.url and entity.url.rstrip("/") != shown.rstrip("/"):
            units = units[:end] + f" ({entity.url})".encode("utf-16-le") + units[end:]
        elif entity.type == "bot_command":
            command, at, name = shown.partition("@")
            if at and _is_ours(name, bot):
                units = units[:begin] + command.encode("utf-16-le") + units[end:]
    return units.decode("utf-16-le", errors="replace")


def mentions(text: str, entities: Sequence[MessageEntity], bot: User) -> bool:
    """Whether somebody calls us by our name at Telegram."""
    units = text.encode("utf-16-le")
    for entity in entities:
        shown = units[entity.offset * 2:(entity.offset + entity.length) * 2].decode("utf-16-le", errors="replace")
        if entity.type == "mention" and _is_ours(shown.removeprefix("@"), bot):
            return True
        if entity.type == "text_mention" and entity.user is not None and entity.user.id == bot.id:
            return True
        if entity.type == "bot_command" and _is_ours(shown.partition("@")[2], bot):
            return True
    return False


def _is_ours(name: str, bot: User) -> bool:
    return bool(name) and name.casefold() == (bot.username or "").casefold()
