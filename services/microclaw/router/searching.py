"""Finds past messages by their words."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, Select, column, func, select, table

from microclaw.core.policy import Denied, may
from microclaw.core.requests import Failed, FoundMessage, FoundMessages, SearchMessages
from microclaw.core.search import HITS_MAX, Query, Unsearchable, excerpt, read_query
from microclaw.router.registry import Registry
from microclaw.router.tables import messages

_INDEX = table("router_search", column("rowid"), column("router_search"))


class Searching:
    """Answers `messages.search`."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    async def on_search(self, wanted: SearchMessages, _asker: str) -> FoundMessages | Failed:
        """What there is now: the index is never behind the messages."""
        query = read_query(wanted.query)
        if isinstance(query, Unsearchable):
            return Failed(reason=query.reason)
        chats = self._seen(wanted)
        if isinstance(chats, Failed):
            return chats
        limit = max(1, min(wanted.limit, HITS_MAX))
        with self._engine.begin() as db:
            found = db.execute(_matching(query, chats, wanted.before).limit(limit + 1)).all()
            searched, newest_ms = _extent(db, chats)
        return FoundMessages(
            rows=tuple(
                FoundMessage(
                    number=row.number, chat=row.chat, sender_name=row.sender_name, sent_ms=row.sent_ms,
                    text=excerpt(row.text, query.words), is_own=row.is_own_reply,
                )
                for row in found[:limit]
            ),
            more_before=found[limit - 1].number if len(found) > limit else 0, searched=searched, newest_ms=newest_ms,
        )

    def _seen(self, wanted: SearchMessages) -> list[str] | Failed | None:
        """The chats to search; None = all."""
        if not wanted.viewer:
            return [wanted.chat] if wanted.chat else None
        folders = {
            chat: group.folder for group in self._registry.all() for chat in (group.chat, *group.joined)
        }
        if not wanted.chat and not wanted.viewer_is_main:
            return [chat for chat, folder in folders.items() if folder == wanted.viewer]
        target = folders.get(wanted.chat) if wanted.chat else wanted.viewer
        verdict = may("search_messages", wanted.viewer, wanted.viewer_is_main, target=target)
        if isinstance(verdict, Denied):
            return Failed(reason=verdict.reason, code="denied")
        return [wanted.chat] if wanted.chat else None


def _matching(query: Query, chats: list[str] | None, before: int) -> Select[Any]:
    found = select(messages).order_by(messages.c.number.desc())
    if query.match:
        hits = select(_INDEX.c.rowid).where(_INDEX.c.router_search.op("MATCH")(query.match))
        found = found.where(messages.c.number.in_(hits))
    for pattern in query.like:
        found = found.where(messages.c.text.like(pattern, escape="\\"))
    if chats is not None:
        found = found.where(messages.c.chat.in_(chats))
    return found.where(messages.c.number < before) if before else found


def _extent(db: Connection, chats: list[str] | None) -> tuple[int, int]:
    extent = select(func.count(), func.max(messages.c.sent_ms))
    count, newest_ms = db.execute(extent if chats is None else extent.where(messages.c.chat.in_(chats))).one()
    return count, newest_ms or 0
