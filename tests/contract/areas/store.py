"""What is stored of messages. The chats of a row are registered groups: of others we keep no content.

What is read is what a run would get. A row's "after T" means: what was sent up to T was handed over before.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from sqlalchemy import delete, select
from tests.contract.areas.clock import ms
from tests.contract.areas.house_words import chat_of, heard, jid_of, router
from tests.contract.rows import Case

from microclaw.core.ids import new_id
from microclaw.router.messages import hand_over, not_handed_over
from microclaw.router.tables import chats


async def answer(case: Case) -> dict[str, Any]:
    case.knows("assistant_name", "stored", "is_from_me", "known_chats")
    stored = case.given.get("stored")
    if stored is None:
        stored = [{"id": "m1", "chat": "new@g.us", "ts": "2024-01-01T00:00:01.000Z", "text": "hi"}]
    name = case.given.get("assistant_name", "Andy")
    async with router(name) as made:
        for number, jid in enumerate(dict.fromkeys(message["chat"] for message in stored)):
            # No message wakes it: what is stored is looked at, not handed over.
            await made.register(chat_of(jid), f"g{number}", trigger="@nobody-says-this")
        assert made.engine is not None
        if "known_chats" in case.given:
            known = [chat_of(jid) for jid in case.given["known_chats"]]
            with made.engine.begin() as db:
                db.execute(delete(chats).where(chats.c.chat.not_in(known)))
        for message in stored:
            more = {"from_me": case.given["is_from_me"]} if "is_from_me" in case.given else {}
            await made.hears(heard(message, name, **more))
        kept = []
        with made.engine.begin() as db:
            for group in made.registry.all():
                rows = not_handed_over(db, group.chat)
                hand_over(db, group, [row for row in rows if row.sent_ms <= _after(case)], new_id(made.now))
                kept += not_handed_over(db, group.chat)
            known_now = {row.chat for row in db.execute(select(chats))}
    count_per_chat = Counter(jid_of(row.chat) for row in kept)
    kept = [row for row in kept if _is_asked_for(case, jid_of(row.chat))]
    first = kept[0] if kept else None
    return {
        "ids": [row.platform_id for row in kept], "count": len(kept), "count_per_chat": count_per_chat,
        "text": first.text if first and len(kept) == 1 else [row.text for row in kept],
        "sender": first and first.sender, "sender_name": first and first.sender_name,
        "is_from_me": first and first.from_me,
        "stored": len(kept) == len({(message["chat"], message["id"]) for message in stored}),
        "chat_row_created": {chat_of(message["chat"]) for message in stored} <= known_now,
    }


def _after(case: Case) -> int:
    """The moment that `when` names, if it names one."""
    words = str(case.when).split()
    return ms(words[words.index("after") + 1]) if "after" in words else 0


def _is_asked_for(case: Case, jid: str) -> bool:
    """Where `when` names a chat, only what is in it."""
    named = re.findall(r"\S+@\S+", str(case.when))
    return not named or jid in named
