"""The forward proxy: `CONNECT host:port`, and whether a worker may go anywhere: where the allow-list names it, nowhere
else. (`forward.py` carries what is not a tunnel.)"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h11

from microclaw.core.approvals import Action
from microclaw.core.client_hello import BadHello, refused_hello
from microclaw.core.egress_rules import Tool, Verdict, parse_authority
from microclaw.core.errors import UsageError
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
from microclaw.egress.tunnel import ACCESS_DENIED, Tunnel, TunnelLimits, first_hello
from microclaw.egress.upstream import Dial, Streams, Unreachable, dialled, hung_up

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


class Proxy:
    """Decides, records, carries."""

    def __init__(
        self, rules: RuleStore, secrets: SecretStore, audit: AuditLog, world: World,
        approvals: ApprovalDesk | None, *, tunnel_limits: TunnelLimits,
    ) -> None:
        """`approvals` None: the owner is not asked about new hosts."""
        self._approvals = approvals
        self._rules = rules
        self._secrets = secrets
        self._audit = audit
        self._world = world
        self._tunnel_limits = tunnel_limits
        #: Worker → its rate, and whether it kept within at the last look.
        self._rates: dict[str, tuple[TokenBucket, bool]] = {}
        #: Tunnels and plain requests under way.
        self.under_way = 0

    async def tunnel(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """`CONNECT`. True: a tunnel was made, and is over. :raises Closed:"""
        target = request.target.decode("ascii", "replace")
        if not await self.admit(owner, wire):
            return False
        try:
            host, port = parse_authority(target)
        except UsageError as error:
            return await self.deny(owner, wire, "egress.connect", target, str(error), status=400)
        checked = await self.check(owner, host, port, target, "bash")
        if isinstance(checked, str):
            return await self.deny(owner, wire, "egress.connect", f"{host}:{port}", checked)
        with self.place():
            try:
                outside = await dialled(self._world.dial, checked.addresses, port, name=host)
            except Unreachable as error:
                await self.record(owner, "egress.connect", f"{host}:{port}", "failed", str(error))
                await refuse(wire, 502, str(error))
                return False
            try:
                await self._carry(owner, wire, host, port, outside)
            finally:
                await hung_up(outside[1])
        return True

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
        now_s = time.monotonic()
        known = self._rates.pop(owner.worker_id, None)
        bucket, was_within = known or (TokenBucket(Rate(CONNECTIONS_PER_S, BURST_MAX), now_s), True)
        if len(self._rates) >= RATES_MAX:
            # The worker that was quiet for longest has a full one anyway, or is gone.
            del self._rates[next(iter(self._rates))]
        within = bucket.take(now_s)
        self._rates[owner.worker_id] = bucket, within
        if not within:
            reason = f"too many connections and requests: {CONNECTIONS_PER_S:g} a second are allowed, try again later"
            if was_within:
                await self.record(owner, "egress.flood", "the door", "deny", reason)
            await refuse(wire, 429, reason, kind="egress_denied")
        return within

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
        return Passage(found.addresses, verdict.websocket, verdict.opaque)

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

    async def _not_yet(self, owner: Owner, verdict: Verdict, where: str) -> str:
        """Why a host that no rule allows may not be reached, "" = the owner said yes to this one time."""
        if self._approvals is None or not verdict.unnamed:
            return verdict.reason
        ruling = await self._approvals.ask(
            Action(kind="host", group=owner.group, target=where), new_id(self._world.clock_ms()).hex(),
            f"worker:{owner.worker_id}@{owner.group}",
        )
        return "" if ruling.allowed else f"{verdict.reason}; {ruling.reason}"

    async def _carry(
        self, owner: Owner, wire: Wire, host: str, port: int, outside: Streams,
    ) -> None:
        where = f"{host}:{port}"
        already, _ = wire.h11.trailing_data
        await wire.send(h11.Response(status_code=200, reason="Connection established", headers=[]))
        try:
            hello, seen = await first_hello(wire.reader, bytes(already), self._tunnel_limits)
            refused = refused_hello(hello, host)
        except BadHello as error:
            refused, seen = str(error), b""
        if refused:
            await self.record(owner, "egress.connect", where, "deny", refused)
            await wire.write(ACCESS_DENIED)
            return
        await self.record(owner, "egress.connect", where, "allow", outside[1].get_extra_info("peername")[0])
        tunnel = Tunnel(self._tunnel_limits)
        outside[1].write(seen)
        tunnel.sent = len(seen)
        ended = await tunnel.carry((wire.reader, wire.writer), outside)
        if ended.startswith("cut"):
            await self.record(owner, "egress.cut", where, "ok", f"{ended}; {tunnel.sent} out, {tunnel.received} in")
