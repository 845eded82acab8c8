"""Which chats are known, and which could be registered."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import iso, ms
from tests.contract.areas.house_words import chat_of, is_group_jid, jid_of, router
from tests.contract.router.router_play import RouterPlay
from tests.contract.rows import Case, Unmapped

from microclaw.core.groups import open_for_registration
from microclaw.core.kinds import MessageReceived


async def answer(case: Case) -> dict[str, Any]:
    case.knows("calls", "chats", "registered")
    async with router() as made:
        for number, call in enumerate(case.given.get("calls", [])):
            await _hear(made, call["jid"], ms(call["ts"]), number, call.get("name"), is_group_jid(call["jid"]))
        for number, chat in enumerate(case.given.get("chats", [])):
            is_group = chat.get("is_group", is_group_jid(chat["jid"]))
            sent_ms = chat["t"] if isinstance(chat["t"], int) else ms(chat["t"])
            await _hear(made, chat["jid"], sent_ms, number, chat.get("name"), is_group)
        for number, jid in enumerate(case.given.get("registered", [])):
            await made.register(chat_of(jid), f"g{number}")
        known = (await made.groups()).chats
    if case.when_is("chats are listed"):
        shown = list(known)
    elif case.when_is("open for registration") or case.when_is("groups are listed"):
        shown = open_for_registration(known)
    else:
        raise Unmapped(f"when: {case.when}")
    found: dict[str, Any] = {
        "count": len(shown), "jids": [jid_of(chat.chat) for chat in shown],
        "names": [jid_of(chat.name) for chat in shown],
        "registered_flags": {jid_of(chat.chat): chat.registered for chat in shown},
    }
    if len(shown) == 1:
        found |= {"name": jid_of(shown[0].name), "last_message_time": iso(shown[0].last_message_ms)}
    return found


async def _hear(made: RouterPlay, jid: str, sent_ms: int, number: int, name: str | None, is_group: bool) -> None:
    await made.hears(MessageReceived(
        chat=chat_of(jid), platform_id=f"m{number}", sender="ann", sender_name="Ann", text="hi", sent_ms=sent_ms,
        chat_name=name or "", is_group=is_group,
    ))
