"""Who may wake the assistant."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.rows import Case

from microclaw.core.policy import judge_sender, read_sender_rules
from microclaw.core.trigger import trigger_of, triggers


def answer(case: Case) -> dict[str, Any]:
    case.knows("default", "chats", "file", "sender", "text", "chat")
    raw: str | None
    if "file" in case.given:
        raw = case.given["file"]
        raw = None if raw in (None, "missing", "absent") else raw
    else:
        raw = json.dumps({name: case.given[name] for name in ("default", "chats") if name in case.given})
    rules, problems = read_sender_rules(raw)
    chats = list(case.given.get("chats", {}))
    chat = case.given.get("chat", chats[0] if chats else "g")
    verdict = judge_sender(rules, chat, case.given.get("sender", "anybody"))
    text = case.given.get("text", "@Andy hi")
    return {
        "allowed": verdict.allowed, "stored": verdict.stored, "allow_all": verdict.allowed,
        "triggers": verdict.allowed and triggers(text, trigger_of("", "Andy")),
        "owner_told": bool(problems), "chat_entry_skipped": bool(problems) and chat not in rules.chats,
    }
