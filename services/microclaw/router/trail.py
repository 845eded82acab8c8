"""What the owner changed goes into the audit log: written with the change, published after it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from microclaw.bus.api import Bus, Draft
from microclaw.core.ids import derived_id
from microclaw.core.kinds import AuditEntry
from microclaw.store.outbox import Outbox

SESSION = "service:router"


class Trail:
    """Audit entries by the command that caused them. Without a bus (in tests) nothing is kept."""

    def __init__(
        self, outbox: Outbox | None = None, bus: Bus | None = None, clock_ms: Callable[[], int] = lambda: 0
    ) -> None:
        self._outbox = outbox
        self._bus = bus
        self._clock_ms = clock_ms

    def note(
        self, db: Connection, command_id: str, actor: str, action: str, subject: str, outcome: str = "ok"
    ) -> None:
        """Within the transaction of the change."""
        if self._outbox is not None:
            cause = _cause(command_id)
            draft = audit_draft(cause, actor, action, subject, outcome)
            self._outbox.add(db, cause, [draft], now_ms=self._clock_ms())

    async def tell(self, command_id: str) -> None:
        """After the commit. What is refused now is published later."""
        if self._outbox is not None and self._bus is not None:
            await self._outbox.flush(self._bus, _cause(command_id))


def audit_draft(cause: bytes, actor: str, action: str, subject: str, outcome: str = "ok") -> Draft:
    """The entry as it is published."""
    entry = AuditEntry(actor=actor, action=action, subject=subject, outcome=outcome)
    return Draft(SESSION, entry, message_id=derived_id(0, cause, "audit"))


def _cause(command_id: str) -> bytes:
    return derived_id(0, "router.trail", command_id)
