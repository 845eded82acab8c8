"""What is said in a chat for a text of the agent. What it says during its run goes through the host's tool."""

from __future__ import annotations

from typing import Any

from tests.contract.house import house
from tests.contract.rows import Case, Unmapped

from microclaw.core.text import outbound


async def answer(case: Case) -> dict[str, Any]:
    case.knows("assistant_name", "channel_prefix_flag", "agent_text", "ipc_text")
    flag = case.given.get("channel_prefix_flag")
    if flag not in (True, False, None, "absent", "unset", "undefined"):
        raise Unmapped(f"channel_prefix_flag: {flag}")
    prefix = {"prefix": flag} if isinstance(flag, bool) else {}
    if "ipc_text" in case.given:
        said = await _during_the_run(case.given["ipc_text"] or "")
    elif "agent_text" in case.given:
        said = case.given["agent_text"] or ""
    else:
        raise Unmapped("no text")
    text = outbound(said, case.need("assistant_name"), **prefix)
    return {"text": text, "sent": bool(text)}


async def _during_the_run(text: str) -> str:
    async with house() as made:
        await made.call("fam", "wa:fam", False, "send_message", {"text": text})
        replies = made.replies()
    return replies[0].text if replies else ""
