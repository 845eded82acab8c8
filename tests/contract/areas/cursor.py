"""Which messages a run gets. Our cursor is a mark on each message; the original's is a time stamp.

A row's cursor at time T therefore means: the messages up to T were handed over to a run before.
"""

from __future__ import annotations

from typing import Any

from tests.contract.areas.clock import iso, ms
from tests.contract.areas.house_words import chat_of, heard, router
from tests.contract.router.router_play import RouterPlay
from tests.contract.rows import Case, Unmapped

from microclaw.core.ids import new_id
from microclaw.core.kinds import RunGranted
from microclaw.core.nanoclaw import read_cursors
from microclaw.core.turns import prompt_of
from microclaw.router.inbound import hand_over, not_handed_over

#: What nobody writes: a group with this trigger stores and does not wake.
_SILENT = "@nobody-says-this"


async def answer(case: Case) -> dict[str, Any]:
    case.knows(
        "assistant_name", "stored", "registered", "last_timestamp", "cursor_after_run", "arrives_later",
        "pending_count", "limit", "cursor_present", "router_state_last_agent_timestamp", "cursor", "since",
    )
    if "router_state_last_agent_timestamp" in case.given:
        cursors, warnings = read_cursors(case.given["router_state_last_agent_timestamp"])
        return {"started": True, "all_cursors": cursors or "", "warned": bool(warnings)}
    name = case.given.get("assistant_name", "Andy")
    async with router(name) as made:
        if "pending_count" in case.given:
            if case.given.get("limit") is not None:
                raise Unmapped("a bound on the messages of a prompt: ours is one on its bytes")
            return await _long_silence(made, case.given["pending_count"])
        if "arrives_later" in case.given:
            return await _late(made, case, name)
        return await _read(made, case, name)


async def _read(made: RouterPlay, case: Case, name: str) -> dict[str, Any]:
    stored = case.need("stored")
    registered = case.given.get("registered", list(dict.fromkeys(message["chat"] for message in stored)))
    for number, jid in enumerate(registered):
        await made.register(chat_of(jid), f"g{number}", trigger=_SILENT)
    for message in stored:
        await made.hears(heard(message, name))
    cursor = next((case.given[key] for key in ("last_timestamp", "cursor", "since") if key in case.given), "")
    cursor = cursor or _cursor_in(case)
    waiting = []
    assert made.engine is not None
    with made.engine.begin() as db:
        for group in made.registry.all():
            rows = not_handed_over(db, group.chat)
            if cursor:
                done = [row for row in rows if row.sent_ms <= ms(cursor)]
                hand_over(db, group, done, new_id(made.now))
                rows = not_handed_over(db, group.chat)
            waiting += rows
    waiting.sort(key=lambda row: (row.sent_ms, row.number))
    return {
        "ids": [row.platform_id for row in waiting], "pending": bool(waiting), "count": len(waiting),
        "new_timestamp": iso(max(row.sent_ms for row in waiting)) if waiting else cursor,
    }


def _cursor_in(case: Case) -> str:
    if not isinstance(case.when, str):
        raise Unmapped(f"when: {case.when}")
    words = case.when.split()
    return words[words.index("after") + 1] if "after" in words else ""


async def _late(made: RouterPlay, case: Case, name: str) -> dict[str, Any]:
    stored, later = case.need("stored"), case.need("arrives_later")
    for number, jid in enumerate(dict.fromkeys(message["chat"] for message in [*stored, *later])):
        await made.register(chat_of(jid), f"g{number}", requires_trigger=False)
    for message in stored:
        runs = await made.hears(heard(message, name))
        assert [prompt.id for run in runs for prompt in run.messages] == [message["id"]]
    found: list[str] = []
    for message in later:
        for run in await made.hears(heard(message, name)):
            found += [prompt.id for prompt in run.messages]
    return {"agent_runs_for": found}


async def _long_silence(made: RouterPlay, count: int) -> dict[str, Any]:
    await made.register("wa:g@g.us", "g")
    stored = [
        {"id": f"m{number}", "chat": "g@g.us", "ts": iso(ms("2024-01-01T00:00:00Z") + 1_000 * number),
         "text": "@Andy now" if number == count - 1 else f"text {number}"}
        for number in range(count)
    ]
    runs = []
    for message in stored:
        # A long silence takes long: it is no flood.
        made.now += 1_000
        runs += await made.hears(heard(message))
    messages = tuple(prompt for run in runs for prompt in run.messages)
    grant = RunGranted(run_id="r", attempt=1, group="g", chat="wa:g@g.us", messages=messages)
    in_prompt = prompt_of(grant, "UTC").count("<message ")
    return {"messages_in_prompt": in_prompt if len(runs) <= 1 else -len(runs)}
