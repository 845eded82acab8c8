"""Delivering a reply once: the console's ledger stands for every connector's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

from sqlalchemy import func, select
from tests.contract.router.router_play import envelope_of
from tests.contract.rows import Case, Unmapped

from microclaw.bus.api import Bus, Delivery
from microclaw.console.outbound import Outbound
from microclaw.console.tables import inbox, lines, metadata, outbox
from microclaw.core.ids import new_id
from microclaw.core.kinds import ReplyRequested
from microclaw.core.settings import Assistant
from microclaw.store.engine import engine_for
from microclaw.store.outbox import Outbox


async def answer(case: Case) -> dict[str, Any]:
    case.knows("two_delivery_loops_overlap", "send", "cleanup_after_send")
    if case.given.get("send", "ok") != "ok":
        raise Unmapped(f"send: {case.given['send']}")
    reply = ReplyRequested(chat="console:main", text="hello")
    delivery = Delivery(envelope_of(reply, "console:main", new_id(1)), 1, None)
    with tempfile.TemporaryDirectory(prefix="mc-lines-") as folder:
        engine = engine_for(Path(folder) / "console.db")
        metadata.create_all(engine)
        for _ in range(2):
            # Each as a process that knows nothing of the other but the ledger; the first one's acknowledgement is lost.
            out = Outbound(engine, Outbox(engine, outbox, inbox), cast(Bus, None), Assistant(), lambda: 1)
            await out.on_reply(delivery)
        with engine.begin() as db:
            sends = db.execute(select(func.count()).select_from(lines).where(lines.c.number.is_not(None))).scalar()
        engine.dispose()
    return {"sends": sends}
