"""What every connector does alike, before and after the journal."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from tests.contract.areas.house_words import chat_of, router
from tests.contract.areas.wire import refused_once, sent_while_away
from tests.contract.rows import Case, Checked, Phrases, Unmapped

from microclaw.core.channels import (
    RECONNECT_MAX_S,
    LoggedOut,
    Names,
    Reconnect,
    after_disconnect,
    names_are_due,
    reconnect_delay_s,
    route,
    text_of,
)
from microclaw.core.kinds import MessageReceived
from microclaw.router.tables import chats, messages

_HOUR_MS = 3_600_000
_SUPERVISORD = Path(__file__).parents[3] / "deploy" / "supervisord.conf"


def answer(case: Case) -> Any:
    given = case.given
    if "channels" in given:
        return _routed(case)
    if case.when_is("message") and case.when_is("arrives"):
        return _arrives(case)
    if "disconnect" in given:
        return _disconnected(case)
    if "reconnect" in given:
        return _reconnects(case)
    if case.when_is("names are to be synced"):
        return _names(case)
    if "send" in given:
        return _sends(case)
    raise Unmapped("no such scene")


async def _arrives(case: Case) -> dict[str, Any]:
    """In a registered chat, unless the row says that it is not, or names one that can't be."""
    case.knows(
        "chat", "registered", "body", "text", "image_caption", "video_caption", "document_caption", "sender",
        "display_name",
    )
    given = case.given
    chat = chat_of(given.get("chat", "group@g.us"))
    captions = [given.get(name) for name in ("image_caption", "video_caption", "document_caption")]
    said = text_of(given.get("body", given.get("text")), *captions)
    if not {"body", "text", "image_caption", "video_caption", "document_caption"} & set(given):
        said = "hello"
    async with router() as made:
        listed = given.get("registered", True)
        if given.get("chat", "group@g.us") in listed if isinstance(listed, list) else listed:
            await made.register("wa:other@g.us", "other")
            await made.register(chat, "g")
            _forget(made, chat)
        sender = given.get("sender", "5550000@s.whatsapp.net")
        await made.hears(MessageReceived(
            chat=chat, platform_id="1", sender=sender, sender_name=given.get("display_name") or "", text=said,
            sent_ms=1, is_group=chat.endswith("@g.us"),
        ))
        assert made.engine is not None
        with made.engine.begin() as db:
            rows = db.execute(select(messages).where(messages.c.chat == chat)).all()
            known = db.execute(select(chats).where(chats.c.chat == chat)).all()
    return {
        "metadata_recorded": bool(known), "content_stored": bool(rows),
        "text": rows[0].text if rows else None, "sender_name": rows[0].sender_name if rows else None,
    }


def _forget(made: Any, chat: str) -> None:
    """Registering makes a chat known; here only the message should."""
    from sqlalchemy import delete

    with made.engine.begin() as db:
        db.execute(delete(chats).where(chats.c.chat == chat))


async def _sends(case: Case) -> dict[str, Any]:
    case.knows("send", "connected", "then")
    if case.given["send"] == "fails once":
        seen = await refused_once()
        return {"queued": seen.tries == 2, "sent_after_reconnect": seen.sent == ["one"]}
    texts = case.given["send"]
    if not isinstance(texts, list) or case.given.get("then", "host restarts") != "host restarts":
        raise Unmapped(f"send: {texts}, then {case.given.get('then')}")
    # Connected or not, the connector is away at first and the host restarts: nothing that only memory holds comes
    # through.
    return {"sent": (await sent_while_away(texts)).sent, "queued": case.given.get("connected") is False}


def _disconnected(case: Case) -> dict[str, Any]:
    case.knows("disconnect")
    if "log" in case.given["disconnect"] and case.given["disconnect"] not in ("logged out", "not a log-out"):
        raise Unmapped(f"disconnect: {case.given['disconnect']}")
    logged_out = case.given["disconnect"] == "logged out"
    then = after_disconnect("wa", logged_out=logged_out, failures=1, chance=0.0)
    return {
        "reconnects": isinstance(then, Reconnect),
        "owner_told": isinstance(then, LoggedOut) and bool(then.trouble),
        "other_channels_keep_running": _are_apart(),
        "process_exits": not isinstance(then, Reconnect | LoggedOut),
    }


def _are_apart() -> bool:
    """Each service is a process of its own, and none ends the others."""
    config = configparser.RawConfigParser(strict=False)
    config.read(_SUPERVISORD)
    programs = [section for section in config.sections() if section.startswith("program:")]
    return len(programs) > 1 and not any(section.startswith("group:") for section in config.sections())


def _reconnects(case: Case) -> dict[str, Any]:
    case.knows("reconnect")
    if case.given["reconnect"] == "fails":
        then = after_disconnect("wa", logged_out=False, failures=1, chance=0.0)
        return {"next_try_after_s": then.delay_s if isinstance(then, Reconnect) else None}
    if case.given["reconnect"] != "fails for an hour":
        raise Unmapped(f"reconnect: {case.given['reconnect']}")
    passed, delays = 0.0, []
    while passed < 3600:
        then = after_disconnect("wa", logged_out=False, failures=len(delays) + 1, chance=0.0)
        if not isinstance(then, Reconnect) or len(delays) > 3600:
            break
        delays.append(then.delay_s)
        passed += then.delay_s
    grow = delays == sorted(delays) and len(set(delays)) > 2 and max(delays) <= min(300.0, RECONNECT_MAX_S)
    jitter = reconnect_delay_s(9, 0.9) < reconnect_delay_s(9, 0.1) < reconnect_delay_s(9, 0.0)
    return {
        "keeps_trying": passed >= 3600, "tries": len(delays),
        "delays": Phrases({"growing, capped (<= 5 min), with jitter": grow and jitter}),
    }


async def _names(case: Case) -> dict[str, Any]:
    case.knows("groups_synced_h_ago", "force", "sync", "group_without_name")
    given, now = case.given, 1_000 * _HOUR_MS
    ago = given.get("groups_synced_h_ago")
    names = Names(None if ago is None else now - round(ago * _HOUR_MS))
    calls = 0

    async def fetch() -> Mapping[str, str | None]:
        nonlocal calls
        calls += 1
        if given.get("sync") == "throws":
            raise ValueError("the platform's library broke")
        return {"wa:1@g.us": "One"} | ({"wa:2@g.us": None} if given.get("group_without_name") else {})

    was_due = names_are_due(names.synced_ms, now, force=given.get("force", False))
    found = await names.sync(fetch, now, force=given.get("force", False))
    again = await names.sync(fetch, now + 2 * names_gap_ms(), force=True) if given.get("sync") != "throws" else {}
    return {
        "fetched": was_due and bool(found), "host_alive": calls > 0,
        "skipped": "wa:2@g.us" not in found and bool(found or again),
    }


def names_gap_ms() -> int:
    from microclaw.core.channels import NAMES_EVERY_MS

    return NAMES_EVERY_MS


def _routed(case: Case) -> dict[str, Any]:
    case.knows("channels", "jid")
    connectors = {}
    for said in case.given["channels"]:
        name, _, state = said.partition(" ")
        if state not in ("", "(disconnected)"):
            raise Unmapped(f"channel {said!r}")
        connectors[name] = not state
    found = route(case.need("jid"), connectors)
    if found is None:
        return {"error": Phrases({"no channel for this id": True}), "by": None, "queued_for": None}
    return {
        "by": found.channel if found.connected else None, "error": None,
        "queued_for": Checked(found, lambda got, name: got.channel == name and not got.connected),
    }
