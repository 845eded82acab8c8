"""All of egress but the bus: what `serve.py` wires to requests, and tests start by itself."""

from __future__ import annotations

import logging
import ssl
from dataclasses import replace

from microclaw.core.home import Home
from microclaw.core.model_route import server_for
from microclaw.core.settings import Settings
from microclaw.egress.approvals import ApprovalDesk
from microclaw.egress.audit_log import AuditLog
from microclaw.egress.bindings import Bindings
from microclaw.egress.budgets import BudgetKeeper
from microclaw.egress.connect import Connect
from microclaw.egress.connection import Connections
from microclaw.egress.credentials import Credentials
from microclaw.egress.database import Database
from microclaw.egress.dial import World
from microclaw.egress.doors import Doors
from microclaw.egress.forward import Forward
from microclaw.egress.http_messages import Limits
from microclaw.egress.metering import Meter
from microclaw.egress.model_route import ModelRoute
from microclaw.egress.notices import Notices
from microclaw.egress.pages import Pages
from microclaw.egress.proxy import Proxy
from microclaw.egress.refusals import Refusals
from microclaw.egress.rule_store import RuleStore
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.trust import Trust
from microclaw.egress.tunnel import TunnelLimits
from microclaw.egress.websocket import WebSockets
from microclaw.store.heads import HEADS

log = logging.getLogger("microclaw.egress")

_LIMITS = Limits()
_TUNNEL_LIMITS = TunnelLimits()
_WORLD = World()


class Gate:
    """The parts, put together."""

    def __init__(
        self, settings: Settings, home: Home,
        *, world: World = _WORLD, limits: Limits = _LIMITS, tunnel_limits: TunnelLimits = _TUNNEL_LIMITS,
    ) -> None:
        """Nothing is opened yet but files.

        :raises UsageError: the configuration's rules or base URL won't do. :raises UnhealthyError: the files won't.
        """
        self.settings = settings
        self.world = world
        self.secrets = SecretStore(home.secrets, settings.secrets.store)
        server = server_for(settings.model.backend, settings.model.base_url)
        self._db = Database(home.database("egress"), HEADS["egress"])
        self.audit = AuditLog(
            self._db, home.data / "audit.head", clock_ms=world.clock_ms,
            clean=lambda text: self.secrets.scrubber.masked_text(text),
        )
        self.meter = Meter(self._db, settings.assistant.timezone, clock_ms=world.clock_ms)
        self.notices = Notices(
            self._db, clock_ms=world.clock_ms, clean=lambda text: self.secrets.scrubber.masked_text(text),
        )
        self.budgets = BudgetKeeper(self._db, settings.budget, self.meter, self.notices)
        self.rules = RuleStore(self._db, settings.egress.allow)
        self.approvals = ApprovalDesk(
            self._db, settings.approvals, self.rules, self.notices, self.audit, clock_ms=world.clock_ms,
        )
        self._tls: ssl.SSLContext | None = None
        route = ModelRoute(
            server, settings.model.key, self.secrets, self.audit, self.meter, self.budgets,
            tls=self._context, limits=limits,
        )
        self.proxy = Proxy(
            self.rules, self.secrets, self.audit, world,
            self.approvals if settings.approvals.new_hosts else None,
        )
        self.bindings = Bindings(self._db)
        self.trust = Trust(settings.egress.read_tls, clock_ms=world.clock_ms)
        credentials = Credentials(self.secrets, self.bindings, self.trust.mark)
        forward = Forward(
            self.proxy, credentials, self.secrets, WebSockets(self.proxy, self.secrets, tunnel_limits),
            tls=self._context, limits=replace(limits, stall_s=tunnel_limits.idle_s),
        )
        pages = Pages(self.proxy, self.secrets, tls=self._context, limits=limits)
        refusals = Refusals()
        connect = Connect(
            self.proxy, forward, self.bindings, self.trust, refusals, limits=limits, tunnel_limits=tunnel_limits,
        )
        self.connections = Connections(
            route=route.handle, tunnel=connect.handle, forward=forward.handle, page=pages.handle,
            environment=credentials.handle, authority=self.trust.handle, refusals=refusals.handle, limits=limits,
        )

        def gone(worker_id: str) -> None:
            self.trust.forget(worker_id)
            refusals.forget(worker_id)

        self.doors = Doors(self._db, home.run / "egress", self.connections.visit, gone=gone)

    async def start(self) -> int:
        """Bind the doors that were open before. Returns how many."""
        return await self.doors.reopen()

    async def stop(self) -> None:
        """Close what is open, and write what is still to be written; the doors are bound again at the next start."""
        await self.doors.stop()
        await self._db.close()

    def _context(self) -> ssl.SSLContext:
        # Made at the first use: the certificates of all authorities are a megabyte.
        if self._tls is None:
            self._tls = self.world.tls()
        return self._tls
