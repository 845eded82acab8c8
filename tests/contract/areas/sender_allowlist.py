"""Who may wake the assistant: a router hears one message, with the owner's list beside it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from tests.contract.areas.house_words import chat_of, router
from tests.contract.rows import Case

from microclaw.core.kinds import MessageReceived
from microclaw.router.senders import Senders
from microclaw.router.tables import messages

#: How a row says that there is no list.
_NO_LIST = (None, "missing", "absent", "does not exist")


async def answer(case: Case) -> dict[str, Any]:
    case.knows("default", "chats", "file", "sender", "text", "chat", "is_from_me")
    content = _list(case)
    chats = list(case.given.get("chats", {}))
    chat = chat_of(case.given.get("chat", chats[0] if chats else "g"))
    troubles: list[str] = []
    async with router() as made:
        path = made.folder / "senders.json"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        senders = Senders(path if content is not None else None, troubles.append)
        made.inbound._senders = senders
        await made.register(chat, "g")

        async def says(number: int, text: str) -> bool:
            """Whether it woke the group."""
            return bool(await made.hears(MessageReceived(
                chat=chat, platform_id=f"m{number}", sender=case.given.get("sender", "anybody"), sender_name="X",
                text=text, sent_ms=number, is_group=True, from_me=bool(case.given.get("is_from_me", False)),
            )))

        triggers = await says(1, case.given.get("text", "@Andy hi"))
        assert made.engine is not None
        with made.engine.begin() as db:
            stored = bool(db.execute(select(messages).where(messages.c.chat == chat)).all())
        allowed = await says(2, "@Andy hi again")
        is_ruled = chat in senders.rules().chats
    return {
        "allowed": allowed, "stored": stored, "allow_all": allowed, "triggers": triggers,
        "owner_told": bool(troubles), "chat_entry_skipped": bool(troubles) and not is_ruled,
    }


def _list(case: Case) -> str | None:
    """The list's text, with our addresses of its chats; None = there is none."""
    if "file" in case.given:
        text = case.given["file"]
        if text in _NO_LIST:
            return None
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            return str(text)
    else:
        content = {name: case.given[name] for name in ("default", "chats") if name in case.given}
    if isinstance(content, dict) and isinstance(content.get("chats"), dict):
        content["chats"] = {chat_of(jid): entry for jid, entry in content["chats"].items()}
    return json.dumps(content)
