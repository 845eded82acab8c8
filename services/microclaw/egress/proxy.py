"""Whether a worker may go anywhere: where the allow-list names it, nowhere else. (`connect.py` carries tunnels,
`forward.py` requests.)"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from microclaw.core.approvals import Action
from microclaw.core.egress_rules import Tool, Verdict
from microclaw.core.ids import new_id
from microclaw.core.token_bucket import Rate, TokenBucket
from microclaw.egress.approvals import ApprovalDesk
from microclaw.egress.audit_log import AuditLog
from microclaw.egress.connection import refuse
from microclaw.egress.dial import World, resolved
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import Wire
from microclaw.egress.rule_store import RuleStore
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.upstream import Dial

#: New connections of one worker: so many at once, then so many a second.
BURST_MAX = 300.0
CONNECTIONS_PER_S = 10.0
#: Workers whose rates are remembered.
RATES_MAX = 1000
#: Tunnels and plain requests under way at the same time, all workers together.
UNDER_WAY_MAX = 1000


@dataclass(frozen=True, slots=True)
class Passage:
    """What a worker may do at a host."""

    #: May be dialled, and nothing else may.
    addresses: tuple[str, ...]
    #: As the rules have them; a yes of the owner's for once grants neither.
    websocket: bool
    opaque: bool
    #: The owner said yes for once; no rule names it.
    for_once: bool = False


@dataclass(slots=True)
class _Rate:
    """Of one worker."""

    bucket: TokenBucket
    #: At the last look.
    within: bool = True
    #: Held by the one request that waits for the rate.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Proxy:
    """Decides and records."""

    def __init__(
        self, rules: RuleStore, secrets: SecretStore, audit: AuditLog, world: World,
        approvals: ApprovalDesk | None,
    ) -> None:
        """`approvals` None: the owner is not asked about new hosts."""
        self._approvals = approvals
        self._rules = rules
        self._secrets = secrets
        self._audit = audit
        self._world = world
        self._rates: dict[str, _Rate] = {}
        #: Tunnels and plain requests under way.
        self.under_way = 0

    @property
    def dial(self) -> Dial:
        """To an address that `check` gave."""
        return self._world.dial

    @contextmanager
    def place(self) -> Iterator[None]:
        """One tunnel or request under way."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def admit(self, owner: Owner, wire: Wire) -> bool:
        """Whether the worker keeps within its rate. If not it is told so; the first time in a row is written down."""
        rate = self._rate(owner)
        was_within, rate.within = rate.within, rate.bucket.take(time.monotonic())
        if rate.within:
            return True
        reason = f"too many connections and requests: {CONNECTIONS_PER_S:g} a second are allowed, try again later"
        if was_within:
            await self.record(owner, "egress.flood", "the door", "deny", reason)
        await refuse(wire, 429, reason, kind="egress_denied")
        return False

    async def paced(self, owner: Owner) -> None:
        """Wait until the worker keeps within its rate: what comes in an open tunnel takes no new place, and programs
        that ask for much in one (package managers) know no pause by themselves."""
        rate = self._rate(owner)
        async with rate.turn:
            while not rate.bucket.take(time.monotonic()):  # noqa: ASYNC110 - it is time that lets it through
                await asyncio.sleep(rate.bucket.wait_s(time.monotonic()))

    async def check(self, owner: Owner, host: str, port: int, target: str, tool: Tool) -> Passage | str:
        """What may be done there by this way, or why nothing may."""
        if self.under_way >= UNDER_WAY_MAX:
            return f"{UNDER_WAY_MAX} connections are open already: try again later"
        if self._secrets.scrubber.holds(target.encode()):
            return "the address holds a secret: nothing was sent"
        verdict: Verdict = self._rules.decide(host, port, owner.group, tool)
        if not verdict.allowed:
            # Before the name is resolved: a question to a name server would carry data out just as well.
            reason = await self._not_yet(owner, verdict, f"{host}:{port}")
            if reason:
                return reason
        found = await resolved(self._world, host, port)
        if not found.verdict.allowed:
            return found.verdict.reason
        return Passage(found.addresses, verdict.websocket, verdict.opaque, for_once=not verdict.allowed)

    def check_again(self, owner: Owner, host: str, port: int, target: str, before: Passage) -> Passage | str:
        """The same for a request in a tunnel: its address and a yes for once hold for all of it, the rules as they are
        now."""
        if self._secrets.scrubber.holds(target.encode()):
            return "the address holds a secret: nothing was sent"
        verdict = self._rules.decide(host, port, owner.group, "bash")
        if not verdict.allowed and not (verdict.unnamed and before.for_once):
            return verdict.reason
        return replace(before, websocket=verdict.websocket, opaque=verdict.opaque)

    async def deny(
        self, owner: Owner, wire: Wire, action: str, subject: str, reason: str, *, status: int = 403,
    ) -> bool:
        """Write down and tell. False: nothing was taken over. :raises Closed:"""
        await self.record(owner, action, subject, "deny", reason)
        await refuse(wire, status, self._secrets.scrubber.masked_text(reason), kind="egress_denied")
        return False

    async def record(self, owner: Owner, action: str, subject: str, outcome: str, detail: str) -> None:
        """Into the audit log."""
        await self._audit.record(f"worker:{owner.worker_id}@{owner.group}", action, subject, outcome, detail)

    # --- inside -----------------------------------------------------------------------------------------------

    def _rate(self, owner: Owner) -> _Rate:
        known = self._rates.pop(owner.worker_id, None)
        if len(self._rates) >= RATES_MAX:
            # The worker that was quiet for longest has a full one anyway, or is gone.
            del self._rates[next(iter(self._rates))]
        rate = known or _Rate(TokenBucket(Rate(CONNECTIONS_PER_S, BURST_MAX), time.monotonic()))
        self._rates[owner.worker_id] = rate
        return rate

    async def _not_yet(self, owner: Owner, verdict: Verdict, where: str) -> str:
        """Why a host that no rule allows may not be reached, "" = the owner said yes to this one time."""
        if self._approvals is None or not verdict.unnamed:
            return verdict.reason
        ruling = await self._approvals.ask(
            Action(kind="host", group=owner.group, target=where), new_id(self._world.clock_ms()).hex(),
            f"worker:{owner.worker_id}@{owner.group}",
        )
        return "" if ruling.allowed else f"{verdict.reason}; {ruling.reason}"
