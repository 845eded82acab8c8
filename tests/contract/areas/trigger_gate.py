"""Do these waiting messages run the agent? A router hears them, in a group that is registered as the row says."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.house_words import chat_of, is_group_jid, router
from tests.contract.rows import Case, Unmapped

from microclaw.core.kinds import MessageReceived
from microclaw.core.requests import Group

_JID = "group@g.us"
_MAIN_CHAT = "console:main"


async def answer(case: Case) -> dict[str, Any]:
    case.knows("assistant_name", "is_main", "requires_trigger", "group_trigger", "pending_texts")
    stated = case.given.get("requires_trigger")
    if stated not in (True, False, None, "absent", "undefined"):
        raise Unmapped(f"requires_trigger: {stated}")
    optional = {"requires_trigger": stated} if isinstance(stated, bool) else {}
    texts = case.need("pending_texts")
    async with router(case.given.get("assistant_name", "Andy")) as made:
        if case.need("is_main"):
            chat = _MAIN_CHAT
            made.registry.ensure_main(chat)
        else:
            chat = chat_of(_JID)
        trigger = case.given.get("group_trigger") or ""
        registered = await made.register(chat, "main" if case.need("is_main") else "g", trigger=trigger, **optional)
        assert isinstance(registered, Group), registered
        runs = []
        for number, text in enumerate(texts):
            made.now += 1_000
            runs += await made.hears(MessageReceived(
                chat=chat, platform_id=f"m{number}", sender="ann", sender_name="Ann", text=text, sent_ms=made.now,
                is_group=is_group_jid(_JID),
            ))
    return {"run": bool(runs)}
