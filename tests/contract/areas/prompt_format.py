"""Messages as the agent reads them."""

from __future__ import annotations

from typing import Any

from tests.contract.rows import Case, contains

from microclaw.core.prompt import Line, format_lines

_FIELDS = {
    "sender_name": "sender", "timestamp": "time", "content": "text", "reply_to_id": "reply_to",
    "reply_to_sender": "quoted_sender", "reply_to_text": "quoted_text",
}


def answer(case: Case) -> dict[str, Any]:
    case.knows("messages", "timezone")
    lines = [
        Line(**{_FIELDS[name]: value or "" for name, value in message.items() if name in _FIELDS})
        for message in case.need("messages")
    ]
    prompt = format_lines(lines, timezone=case.given.get("timezone") or "")
    return {"prompt": prompt, "contains": contains(prompt)}
