"""Messages as the agent reads them."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case, Unmapped, contains

from microclaw.core.prompt import Line, format_lines

_FIELDS = {
    "sender_name": "sender", "timestamp": "time", "content": "text", "reply_to_id": "reply_to",
    "reply_to_sender": "quoted_sender", "reply_to_text": "quoted_text",
}
#: The original's columns that no prompt shows.
_NOT_SHOWN = frozenset({"id", "chat_jid", "sender", "is_from_me", "is_bot_message"})


def answer(case: Case) -> dict[str, Any]:
    case.knows("messages", "timezone")
    lines = [_line(message) for message in case.need("messages")]
    prompt = format_lines(lines, timezone=case.given.get("timezone") or "")
    return {"prompt": prompt, "contains": contains(prompt), "count": len(lines)}


def _line(message: dict[str, Any]) -> Line:
    unknown = sorted(set(message) - set(_FIELDS) - _NOT_SHOWN)
    if unknown:
        raise Unmapped(f"message: {', '.join(unknown)}")
    fields = {_FIELDS[name]: value or "" for name, value in message.items() if name in _FIELDS}
    return Line(**({"sender": message.get("sender", ""), "time": "", "text": ""} | fields))
