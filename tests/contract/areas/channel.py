"""What every connector does alike, before and after the journal."""

from __future__ import annotations

import configparser
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select
from tests.contract.areas.house_words import chat_of, router
from tests.contract.areas.wire import refused_at_first, sent_while_away, sent_while_connected, taken_by
from tests.contract.house import house
from tests.contract.router.router_play import RouterPlay, envelope_of
from tests.contract.rows import Case, Phrases, Unmapped

from microclaw.bus.api import Bus, Delivery, Draft, Receipt
from microclaw.channel import tables as channel_tables
from microclaw.channel.link import Link, LoggedOut, Unreachable, keep_connected
from microclaw.channel.names import ASKED, GroupNames
from microclaw.channel.notes import Notes
from microclaw.core.channels import text_of
from microclaw.core.kinds import ChatsNamed, MessageReceived
from microclaw.core.settings import Approvals
from microclaw.router.tables import chats, messages
from microclaw.store.engine import engine_for

_HOUR_MS = 3_600_000
_HOUR_S = 3600.0
#: The longest pause that the contract allows.
_PAUSE_S_MAX = 300.0
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
    if "send" in given or "connected" in given:
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
    given = case.given
    said = given.get("send", "ok")
    if said in ("fails once", "fails"):
        seen = await refused_at_first()
        return {"queued": seen.queued == 1, "sent_after_reconnect": seen.sent == ["one"], "sent": seen.sent}
    texts = ["one"] if said == "ok" else said
    restarts = given.get("then") == "host restarts"
    if not isinstance(texts, list) or ("then" in given and not restarts):
        raise Unmapped(f"send: {texts}, then {given.get('then')}")
    if given.get("connected", True) and not restarts:
        seen = await sent_while_connected(texts)
    else:
        returns = any(case.when_is(word) for word in ("back", "reconnect", "open", "again"))
        seen = await sent_while_away(texts, comes_back=returns, host_restarts=restarts)
    return {"sent": seen.sent, "queued": seen.queued > 0}


class _Drops:
    """A connector whose connection drops, with the pauses that it makes. The first connection always worked."""

    def __init__(self, then: Callable[[], Exception | None]) -> None:
        self._then = then
        self.link = Link("wa", lambda: 0)
        self.told: list[str] = []
        self.pauses: list[float] = []
        self.connects = 0

    async def run(self, chance: float = 0.0) -> _Drops:
        """Until an hour has passed."""
        try:
            await keep_connected(
                self.link, self._connect, self.told.append, chance=lambda: chance, sleep=self._sleep
            )
        except _Enough:
            return self
        raise AssertionError("a connector never ends by itself")

    async def _connect(self) -> None:
        if sum(self.pauses) >= _HOUR_S:
            raise _Enough
        self.connects += 1
        trouble = self._then() if self.connects > 1 else None
        if trouble is not None:
            raise trouble
        self.link.connected("me")
        self.link.event()

    async def _sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)


class _Enough(BaseException):
    """All was seen."""


async def _disconnected(case: Case) -> dict[str, Any]:
    case.knows("disconnect")
    if "log" in case.given["disconnect"] and case.given["disconnect"] not in ("logged out", "not a log-out"):
        raise Unmapped(f"disconnect: {case.given['disconnect']}")
    logged_out = case.given["disconnect"] == "logged out"
    seen = await _Drops(lambda: LoggedOut("log in again") if logged_out else None).run()
    return {
        "reconnects": not logged_out and seen.connects > 1,
        "owner_told": bool(seen.told),
        "other_channels_keep_running": _are_apart(),
        "process_exits": sum(seen.pauses) < _HOUR_S,
    }


def _are_apart() -> bool:
    """Each service is a process of its own, and none ends the others."""
    config = configparser.RawConfigParser(strict=False)
    config.read(_SUPERVISORD)
    programs = [section for section in config.sections() if section.startswith("program:")]
    return len(programs) > 1 and not any(section.startswith("group:") for section in config.sections())


async def _reconnects(case: Case) -> dict[str, Any]:
    case.knows("reconnect")
    if case.given["reconnect"] not in ("fails", "fails once", "fails for an hour"):
        raise Unmapped(f"reconnect: {case.given['reconnect']}")
    failures = itertools.count() if case.given["reconnect"] == "fails once" else itertools.repeat(0)
    seen, other = [
        await _Drops(lambda: Unreachable("no network") if next(failures) < 1 else None).run(chance)
        for chance in (0.0, 0.9)
    ]
    # The first pause is that before the first try to connect again.
    _, *after = seen.pauses
    grow = after == sorted(after) and len(set(after)) > 2 and max(after) <= _PAUSE_S_MAX
    jitter = all(mine > others for mine, others in zip(seen.pauses, other.pauses, strict=False))
    return {
        "next_try_after_s": after[0], "keeps_trying": sum(seen.pauses) >= _HOUR_S, "tries": len(after),
        "delays": Phrases({"growing, capped (<= 5 min), with jitter": grow and jitter}),
    }


async def _names(case: Case) -> dict[str, Any]:
    """A connector asks its platform and tells a router."""
    case.knows("groups_synced_h_ago", "force", "sync", "group_without_name")
    given, now = case.given, 1_000 * _HOUR_MS
    calls = 0

    async def fetch() -> Mapping[str, str | None]:
        nonlocal calls
        calls += 1
        if given.get("sync") == "throws" and calls == 1:
            raise ValueError("the platform's library broke")
        return {"wa:1@g.us": "One"} | ({"wa:2@g.us": None} if given.get("group_without_name") else {})

    async with router() as made:
        engine = engine_for(made.folder / "wa.db")
        channel_tables.metadata.create_all(engine)
        notes = Notes(engine, channel_tables.notes, lambda: now)
        if (ago := given.get("groups_synced_h_ago")) is not None:
            notes.set(ASKED, {"wa": str(now - round(ago * _HOUR_MS))})
        names = GroupNames("wa", cast(Bus, _Told(made)), notes, lambda: now)
        await names.sync(fetch, force=given.get("force", False))
        fetched = calls > 0
        if given.get("sync") == "throws":
            # The next time it works.
            await names.sync(fetch, force=True)
        known = {chat.chat: chat.name for chat in (await made.groups()).chats}
        engine.dispose()
    if fetched:
        assert known["wa:1@g.us"] == "One"
    return {"fetched": fetched, "host_alive": bool(known), "skipped": fetched and "wa:2@g.us" not in known}


class _Told:
    """The bus, as far as to the router."""

    def __init__(self, made: RouterPlay) -> None:
        self._made = made

    async def publish(self, draft: Draft) -> list[Receipt]:
        assert isinstance(draft.payload, ChatsNamed)
        told = envelope_of(draft.payload, draft.session_id, draft.message_id or b"")
        assert await self._made.inbound.on_named(Delivery(told, 1, None)) == []
        return [Receipt(draft.message_id or b"", 1, duplicate=False)]


async def _routed(case: Case) -> dict[str, Any]:
    """The main group's agent says something there; in every channel's chat number 1 somebody has written before.
    (That the owner is asked first, where nobody who may speak ever wrote, is another matter: AC-51.)"""
    case.knows("channels", "jid")
    channels = {}
    for said in case.given["channels"]:
        name, _, state = said.partition(" ")
        if state not in ("", "(connected)", "(disconnected)"):
            raise Unmapped(f"channel {said!r}")
        channels[name] = state != "(disconnected)"
    chat = case.need("jid")
    async with house(approvals=Approvals(new_recipients=False)) as made:
        made.router.registry.ensure_main("console:main")
        for name in channels:
            await made.hears(MessageReceived(
                chat=f"{name}:1", platform_id="1", sender="ann", sender_name="Ann", text="hi", sent_ms=1,
            ))
        call = await made.call("main", "console:main", True, "send_message", {"chat": chat, "text": "hi"})
        chats = [reply.chat for reply in made.replies()]
    if not call.ok:
        unknown = "no chat" in call.text and not chats
        return {"error": Phrases({"no channel for this id": unknown}), "by": None, "queued_for": None}
    assert chats == [chat]
    by, kept = await taken_by(chat, channels)
    return {"by": by, "queued_for": kept, "error": None}
