"""What is asked of the sandbox service about conversations."""

from __future__ import annotations

import msgspec

from microclaw.core.requests.asking import Request


class SessionsAsked(Request, frozen=True, kw_only=True, tag="sessions.list"):
    """To the sandbox: the agents' conversations. Answer: Sessions."""


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    #: The folder's name: a group, or `<group>.stale-<ms>` for one that was put aside.
    name: str
    size_bytes: int
    changed_ms: int
    #: A worker has it open.
    is_live: bool


class Sessions(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sessions.list.answer"):
    sessions: tuple[SessionRow, ...]


class SessionAsked(Request, frozen=True, kw_only=True, tag="sessions.show"):
    """To the sandbox: the last turns of a conversation, as the agent wrote them down. Answer: Session or Failed."""

    name: str
    #: At most so many; fewer where more would not fit one answer.
    limit: int = 20
    #: Not the last ones: so many of those are skipped.
    skip: int = 0


class SessionTurn(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    began_ms: int
    prompt: str
    #: "" while it is under way.
    answer: str
    error: str = ""
    #: Tools that it used, in order.
    tools: tuple[str, ...] = ()


class ForkSession(Request, frozen=True, kw_only=True, tag="sessions.fork"):
    """To the sandbox, from the owner: the group goes on with a copy of this conversation; what it had is put aside.

    Waits for the group's run under way. Answer: Done or Failed.
    """

    name: str
    group: str


class Session(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sessions.show.answer"):
    turns: tuple[SessionTurn, ...]
