"""Addresses of the contract (WhatsApp's, without a channel) and ours, `channel:id`."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.areas.clock import ms
from tests.contract.router.router_play import RouterPlay

from microclaw.core.groups import is_chat
from microclaw.core.kinds import MessageReceived
from microclaw.core.text import is_own_reply

_CHANNEL = "wa"


def chat_of(jid: str) -> str:
    """Our address of it."""
    return jid if is_chat(jid) else f"{_CHANNEL}:{jid}"


def jid_of(text: str) -> str:
    """The contract's word for our address."""
    return text.removeprefix(f"{_CHANNEL}:")


def is_group_jid(jid: str) -> bool:
    return jid.endswith("@g.us")


def heard(stored: dict[str, Any], assistant_name: str = "Andy", **more: Any) -> MessageReceived:
    """A stored message of the contract as its connector would have published it.

    `is_bot_message` is the connector's own flag; where the history has none, the connector tells by the prefix.
    """
    text = stored.get("text", stored.get("content")) or ""
    sender = stored.get("sender", "ann@s.whatsapp.net")
    return MessageReceived(**({
        "chat": chat_of(stored["chat"]), "platform_id": stored["id"], "sender": sender,
        "sender_name": stored.get("sender_name", "Ann"), "text": text, "sent_ms": ms(stored["ts"]),
        "is_group": is_group_jid(stored["chat"]), "from_me": bool(stored.get("is_from_me", False)),
        "is_own_reply": is_own_reply(text, assistant_name, stored.get("is_bot_message")),
    } | more))


@asynccontextmanager
async def router(assistant_name: str = "Andy") -> AsyncIterator[RouterPlay]:
    """A router of its own."""
    with tempfile.TemporaryDirectory(prefix="mc-router-") as folder:
        made = RouterPlay(Path(folder), assistant_name)
        try:
            yield made
        finally:
            made.stop()
