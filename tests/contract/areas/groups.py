"""Registering groups."""

from __future__ import annotations

from typing import Any

from tests.contract.areas.house_words import chat_of, jid_of, router
from tests.contract.rows import Case, Checked, Unmapped

from microclaw.core.groups import is_folder
from microclaw.core.nanoclaw import container_of
from microclaw.core.requests import Failed


async def answer(case: Case) -> dict[str, Any]:
    case.knows("folder", "registration", "registrations")
    if "folder" in case.given:
        folder = case.given["folder"]
        # What is no text is refused where it is read.
        return {"valid": isinstance(folder, str) and is_folder(folder)}
    wanted = case.given.get("registrations") or ([case.given["registration"]] if "registration" in case.given else [])
    if not wanted:
        raise Unmapped("nothing to register")
    async with router() as made:
        rejected = []
        for registration in wanted:
            if isinstance(await made.register(chat_of(registration["jid"]), **_facts(registration)), Failed):
                rejected.append(registration["jid"])
        made.start()
        groups = made.registry.all()
    found: dict[str, Any] = {
        "rejected": rejected[0] if len(rejected) == 1 else rejected or None,
        "kept": jid_of(groups[0].chat) if len(groups) == 1 else [jid_of(group.chat) for group in groups],
        "count": len(groups),
    }
    if len(groups) == 1:
        (group,) = groups
        found |= {
            "requires_trigger": group.requires_trigger, "folder": group.folder, "name": group.name,
            "trigger": group.trigger,
            # What it says counts: what is left out, and what is said as it would be without.
            "container_config": Checked(group.container, lambda kept, wanted: kept == container_of(wanted or {})),
        }
    return found


def _facts(registration: dict[str, Any]) -> dict[str, Any]:
    known = {"jid", "folder", "name", "trigger", "requires_trigger", "container_config", "added_at"}
    others = set(registration) - known
    if others:
        raise Unmapped(f"registration: {', '.join(sorted(others))}")
    # What a registration does not name at all is as if it were empty.
    facts = {"folder": ""} | {
        name: registration[name] for name in ("folder", "name", "trigger", "requires_trigger")
        if registration.get(name) is not None
    }
    if registration.get("container_config") is not None:
        facts["container"] = container_of(registration["container_config"])
    return facts
