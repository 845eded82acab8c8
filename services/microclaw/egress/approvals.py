"""Approvals on disk: asked by agents' doings, answered by the owner, used up once."""

from __future__ import annotations

import os
from collections.abc import Callable

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from microclaw.core import approvals as core
from microclaw.core.approvals import Action, Asked, Refused
from microclaw.core.egress_rules import Rule, parse_rule
from microclaw.core.requests import ApprovalRow, ApprovalRuling
from microclaw.core.settings import Approvals
from microclaw.egress.audit_log import AuditLog
from microclaw.egress.database import Database
from microclaw.egress.notices import Notices
from microclaw.egress.rule_store import RuleStore
from microclaw.egress.tables import approvals as table

#: How long what is over is remembered, ms.
KEPT_MS = 30 * 24 * 3600 * 1000
#: Rows of one list.
ROWS_MAX = 200
#: Longest text that is asked about: the owner must be able to read all of it.
DETAIL_CHARS_MAX = 8000


class ApprovalDesk:
    """All approvals. Each asking and each answer is one transaction, one after the other in the database's thread: two
    doings at one moment can't use one yes."""

    def __init__(
        self, db: Database, settings: Approvals, rules: RuleStore, notices: Notices, audit: AuditLog, *,
        clock_ms: Callable[[], int], random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._db = db
        self._life_ms = settings.expires_min * 60_000
        self._rules = rules
        self._notices = notices
        self._audit = audit
        self._clock_ms = clock_ms
        self._random = random

    async def ask(self, action: Action, use_id: str, actor: str) -> ApprovalRuling:
        """May this be done now? What was not answered yet is asked of the owner, within bounds."""
        if len(action.detail) > DETAIL_CHARS_MAX:
            return ApprovalRuling(allowed=False, reason=(
                f"it needs the owner's yes, and {len(action.detail)} characters are too many to ask about: "
                f"at most {DETAIL_CHARS_MAX}"
            ))
        ruling, code, deed = await self._db.run(self._decide, action, use_id)
        if deed:
            outcome = "allow" if ruling.allowed else "ok"
            await self._audit.record(actor, f"approval.{deed}", _subject(action), outcome, _trace(code, action))
        return ruling

    async def answer(self, code: str, answer: core.Answer, by: str, *, cause: bytes = b"") -> str:
        """Take an answer in. Returns "" or why it does not count.

        The envelope `cause` again (after a crash) is the same answer, and done to its end.
        """
        known = core.read_code(code)
        mark = f"{by} ({cause.hex()})" if cause else by
        taken = await self._db.run(self._take, known or "", answer, mark, again=bool(cause))
        if isinstance(taken, Refused):
            shown = known or code[: core.CODE_CHARS]
            await self._audit.record(by, "approval.answer", shown, "failed", taken.reason, cause=cause)
            return taken.reason
        await self._audit.record(
            by, "approval.answer", _subject(taken), "deny" if answer == "deny" else "allow",
            f"{answer}; {_trace(known or '', taken)}", cause=cause,
        )
        return ""

    async def revoke(self, code: str, by: str) -> str:
        """Take back an `always`. Returns "" or why not."""
        known = core.read_code(code) or ""
        action = await self._db.run(self._take_back, known)
        if action is None:
            return "no code that always holds: see `microclaw approvals list`"
        await self._audit.record(by, "approval.revoke", _subject(action), "ok", _trace(known, action))
        return ""

    async def rows(self, *, everything: bool = False) -> tuple[ApprovalRow, ...]:
        """What waits or always holds, newest first; `everything` = also what is over."""
        return await self._db.run(self._rows, everything)

    # --- in the database's thread -----------------------------------------------------------------------------

    def _rows(self, everything: bool) -> tuple[ApprovalRow, ...]:
        now = self._clock_ms()
        query = select(table).order_by(table.c.asked_ms.desc(), table.c.code).limit(ROWS_MAX)
        if not everything:
            waits = table.c.state.in_(("pending", "once")) & (table.c.expires_ms > now)
            query = query.where(waits | (table.c.state == "always"))
        with self._db.begin() as db:
            return tuple(
                ApprovalRow(
                    code=row.code, action=_action(row), asked_ms=row.asked_ms, expires_ms=row.expires_ms,
                    state="expired" if row.state in ("pending", "once") and row.expires_ms <= now else row.state,
                    answered_ms=row.answered_ms, answered_by=row.answered_by,
                )
                for row in db.execute(query)
            )

    def _take(self, code: str, answer: core.Answer, mark: str, *, again: bool) -> Action | Refused:
        """What was answered. `again`: an answer with this mark was the same one."""
        with self._db.begin() as db:
            row = db.execute(select(table).where(table.c.code == code)).first()
            if row is not None and again and row.answered_by == mark:
                return _action(row)
            now = self._clock_ms()
            state = core.answered(_asked(row) if row else None, answer, now_ms=now)
            if row is None or isinstance(state, Refused):
                return state if isinstance(state, Refused) else Refused("there is no such code")
            action = _action(row)
            db.execute(update(table).where(table.c.code == row.code).values(
                state=state, answered_ms=now, answered_by=mark, expires_ms=now + self._life_ms,
            ))
            self._notices.put(db, f"answered {row.code}", _confirmation(action, answer))
            if state == "always" and action.kind == "host":
                self._rules.put(db, _rule(action), "allow", now)
        self._rules.load()
        return action

    def _take_back(self, code: str) -> Action | None:
        """What always held; None = nothing did."""
        with self._db.begin() as db:
            row = db.execute(select(table).where(table.c.code == code)).first()
            if row is None or row.state != "always":
                return None
            action = _action(row)
            db.execute(update(table).where(table.c.code == row.code).values(state="revoked"))
            if action.kind == "host":
                self._rules.put(db, _rule(action), "forget", self._clock_ms())
        self._rules.load()
        return action

    def _decide(self, action: Action, use_id: str) -> tuple[ApprovalRuling, str, str]:
        """(what is answered, the code, what was done: "ask", "use" or "" for the audit)."""
        now = self._clock_ms()
        digest = core.action_hash(action)
        with self._db.begin() as db:
            if action.kind in core.FOR_THE_TARGET and (always := self._always(db, action)):
                return ApprovalRuling(allowed=True), always, "use"
            newest = select(table).where(table.c.hash == digest).order_by(table.c.asked_ms.desc(), table.c.code)
            row = db.execute(newest).first()
            if row is not None and row.state == "always" and action.kind == "host":
                # For a host the rule says so, not this row: it came just now, or was forgotten since.
                row = row if self._rules.stands(db, _rule(action)) else None
            found = core.rule(_asked(row) if row else None, use_id, now_ms=now)
            if row is not None and found.use:
                db.execute(update(table).where(table.c.code == row.code).values(state="used", used_by=use_id))
            if row is not None and found.allowed:
                return ApprovalRuling(allowed=True), row.code, "use"
            if row is not None and not found.ask:
                return _waiting(row.code, denied=found.denied), row.code, ""
            return self._new(db, action, digest, now)

    def _always(self, db: Connection, action: Action) -> str:
        same = (
            (table.c.state == "always") & (table.c.kind == action.kind) & (table.c.group_folder == action.group)
            & (table.c.target == action.target)
        )
        return str(db.execute(select(table.c.code).where(same)).scalar() or "")

    def _new(self, db: Connection, action: Action, digest: bytes, now: int) -> tuple[ApprovalRuling, str, str]:
        db.execute(delete(table).where(table.c.expires_ms < now - KEPT_MS, table.c.state != "always"))
        mine = table.c.group_folder == action.group
        pending = select(func.count()).where(mine, table.c.state == "pending", table.c.expires_ms > now)
        today = select(func.count()).where(mine, table.c.asked_ms > now - core.DAY_MS)
        if not core.may_ask(db.execute(pending).scalar_one(), db.execute(today).scalar_one()):
            return ApprovalRuling(allowed=False, reason=(
                "it needs the owner's yes, but the owner was asked too much already: wait for the answers"
            )), "", ""
        code = core.code_from(self._random(core.CODE_BYTES))
        db.execute(insert(table), {
            "code": code, "kind": action.kind, "group_folder": action.group, "target": action.target,
            "detail": action.detail, "hash": digest, "state": "pending", "asked_ms": now,
            "expires_ms": now + self._life_ms, "answered_ms": None, "answered_by": "", "used_by": "",
        })
        self._notices.put(db, f"approval {code}", core.question(action, code))
        return _waiting(code), code, "ask"


def _waiting(code: str, *, denied: bool = False) -> ApprovalRuling:
    if denied:
        return ApprovalRuling(allowed=False, code=code, reason="the owner said no to this")
    return ApprovalRuling(allowed=False, code=code, reason=(
        f"the owner was asked for a yes (approval {core.shown_code(code)}): "
        "after it, do exactly the same again; anything else is asked anew"
    ))


def _confirmation(action: Action, answer: core.Answer) -> str:
    says = {"once": "allowed, once", "always": "allowed from now on", "deny": "not allowed"}[answer]
    if action.kind == "memory":
        done = " It is put in as soon as the group's agent is at rest." if answer != "deny" else " It stays as it was."
        return f"The change of {action.target}: {says}.{done}"
    again = "" if answer == "deny" else " Tell the group to go on: it is done when its agent tries again."
    what = f"The command ({action.target})" if action.kind == "command" else action.target
    return f"{what} for group {action.group}: {says}.{again}"


def _subject(action: Action) -> str:
    # Of a command only the hash is kept: it may hold anything.
    what = action.kind if action.kind == "command" else f"{action.kind} {action.target}"
    return f"{what} for {action.group}"


def _trace(code: str, action: Action) -> str:
    """What binds the audit's line to the action without repeating a text of a chat."""
    return f"code {code}, action {core.action_hash(action).hex()[:32]}"


def _rule(action: Action) -> Rule:
    """What an `always` for a host is."""
    return parse_rule(action.target, group=action.group, origin="cli")


def _asked(row: Row[tuple[object, ...]]) -> Asked:
    return Asked(row.state, row.expires_ms, row.used_by)


def _action(row: Row[tuple[object, ...]]) -> Action:
    return Action(kind=row.kind, group=row.group_folder, target=row.target, detail=row.detail)
