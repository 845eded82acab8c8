"""The forward proxy: `CONNECT host:port` and `GET http://host/…`, to what the allow-list names and nowhere else."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import h11

from microclaw.core.approvals import Action
from microclaw.core.client_hello import BadHello, refused_hello
from microclaw.core.egress_rules import PLAIN_PORT, Bucket, Verdict, parse_authority
from microclaw.core.errors import UsageError
from microclaw.core.ids import new_id
from microclaw.core.model_route import passed
from microclaw.core.scrub import StreamScrubber
from microclaw.egress.approvals import ApprovalDesk
from microclaw.egress.audit_log import AuditLog
from microclaw.egress.connection import refuse
from microclaw.egress.dial import World, resolved
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire
from microclaw.egress.rule_store import RuleStore
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.tunnel import ACCESS_DENIED, Tunnel, TunnelLimits, first_hello
from microclaw.egress.upstream import Streams, Unreachable, connected, dialled, hung_up

#: New connections of one worker: so many at once, then so many a second.
BURST_MAX = 300.0
CONNECTIONS_PER_S = 10.0
#: Workers whose rates are remembered.
BUCKETS_MAX = 1000
#: Tunnels and plain requests under way at the same time, all workers together.
UNDER_WAY_MAX = 1000
#: Bodies of plain HTTP, each way.
PLAIN_BYTES_MAX = 256 << 20
#: From a plain request to its answer's first byte.
ANSWER_S_MAX = 120.0


class Proxy:
    """Decides, records, carries."""

    def __init__(
        self, rules: RuleStore, secrets: SecretStore, audit: AuditLog, world: World,
        approvals: ApprovalDesk | None, *, limits: Limits, tunnel_limits: TunnelLimits,
    ) -> None:
        """`approvals` None: the owner is not asked about new hosts."""
        self._approvals = approvals
        self._rules = rules
        self._secrets = secrets
        self._audit = audit
        self._world = world
        self._limits = limits
        self._tunnel_limits = tunnel_limits
        self._buckets: dict[str, Bucket] = {}
        #: Tunnels and plain requests under way.
        self.under_way = 0

    async def tunnel(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """`CONNECT`. True: a tunnel was made, and is over. :raises Closed:"""
        target = request.target.decode("ascii", "replace")
        try:
            host, port = parse_authority(target)
        except UsageError as error:
            return await self._deny(owner, wire, "egress.connect", target, str(error), status=400)
        checked = await self._check(owner, host, port, target)
        if isinstance(checked, str):
            return await self._deny(owner, wire, "egress.connect", f"{host}:{port}", checked)
        self.under_way += 1
        try:
            try:
                outside = await dialled(self._world.dial, checked, port, name=host)
            except Unreachable as error:
                await self._record(owner, "egress.connect", f"{host}:{port}", "failed", str(error))
                await refuse(wire, 502, str(error))
                return False
            try:
                await self._carry(owner, wire, host, port, outside)
            finally:
                await hung_up(outside[1])
        finally:
            self.under_way -= 1
        return True

    async def forward(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """`GET http://host/…`, on port 80 where a rule names it. :raises Closed: :raises BadMessage:"""
        target = request.target.decode("ascii", "replace")
        try:
            parts = urlsplit(target)
            if parts.scheme != "http" or "@" in parts.netloc:
                raise UsageError(f"{target[:80]!r} is not http://host/…: https goes by CONNECT")
            host, port = parse_authority(parts.netloc, PLAIN_PORT)
        except (UsageError, ValueError) as error:
            return await self._deny(owner, wire, "egress.http", target[:200], str(error), status=400)
        where = f"{host}:{port}"
        if port != PLAIN_PORT:
            return await self._deny(
                owner, wire, "egress.http", where, f"unencrypted HTTP goes to port {PLAIN_PORT} only, not to {where}"
            )
        scrubber = self._secrets.scrubber
        if scrubber.holds(request.target) or any(scrubber.holds(value) for _, value in request.headers):
            return await self._deny(owner, wire, "egress.http", where, "it holds a secret: it was not sent")
        checked = await self._check(owner, host, port, target)
        if isinstance(checked, str):
            return await self._deny(owner, wire, "egress.http", where, checked)
        await self._record(owner, "egress.http", where, "allow", request.method.decode())
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [*passed(request.headers), (b"host", parts.netloc.encode()), (b"connection", b"close")]
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        self.under_way += 1
        try:
            async with connected(
                self._world.dial, checked, port, name=host, limits=self._limits,
            ) as outside:
                await self._exchange(
                    wire, outside, h11.Request(method=request.method, target=path.encode(), headers=headers)
                )
        except Unreachable as error:
            await refuse(wire, 502, str(error))
        except TimeoutError:
            await refuse(wire, 504, f"{host} gave no answer within {ANSWER_S_MAX:g} s")
        finally:
            self.under_way -= 1
        return False

    # --- inside -----------------------------------------------------------------------------------------------

    async def _check(self, owner: Owner, host: str, port: int, target: str) -> tuple[str, ...] | str:
        """The addresses that may be dialled, or why none may."""
        now_s = time.monotonic()
        bucket = self._buckets.pop(owner.worker_id, None) or Bucket(BURST_MAX, CONNECTIONS_PER_S, BURST_MAX, now_s)
        if len(self._buckets) >= BUCKETS_MAX:
            # The worker that was quiet for longest has a full one anyway, or is gone.
            del self._buckets[next(iter(self._buckets))]
        self._buckets[owner.worker_id], within = bucket.take(now_s)
        if not within:
            return f"too many connections: {CONNECTIONS_PER_S:g} a second are allowed, try again later"
        if self.under_way >= UNDER_WAY_MAX:
            return f"{UNDER_WAY_MAX} connections are open already: try again later"
        if self._secrets.scrubber.holds(target.encode()):
            return "the address holds a secret: nothing was sent"
        verdict: Verdict = self._rules.decide(host, port, owner.group)
        if not verdict.allowed:
            # Before the name is resolved: a question to a name server would carry data out just as well.
            reason = await self._not_yet(owner, verdict, f"{host}:{port}")
            if reason:
                return reason
        found = await resolved(self._world, host, port)
        return found.addresses if found.verdict.allowed else found.verdict.reason

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
        self, owner: Owner, wire: Wire, host: str, port: int,
        outside: Streams,
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
            await self._record(owner, "egress.connect", where, "deny", refused)
            await wire.write(ACCESS_DENIED)
            return
        await self._record(owner, "egress.connect", where, "allow", outside[1].get_extra_info("peername")[0])
        tunnel = Tunnel(self._tunnel_limits)
        outside[1].write(seen)
        tunnel.sent = len(seen)
        ended = await tunnel.carry((wire.reader, wire.writer), outside)
        if ended.startswith("cut"):
            await self._record(owner, "egress.cut", where, "ok", f"{ended}; {tunnel.sent} out, {tunnel.received} in")

    async def _exchange(self, wire: Wire, outside: Wire, request: h11.Request) -> None:
        scrubber = self._secrets.scrubber
        if wire.h11.they_are_waiting_for_100_continue:
            await wire.send(h11.InformationalResponse(status_code=100, headers=[]))
        await outside.send(request)
        masked = StreamScrubber(scrubber)
        async for piece in wire.body(PLAIN_BYTES_MAX):
            if out := masked.feed(piece):
                await outside.send(h11.Data(data=out))
        if out := masked.finish():
            await outside.send(h11.Data(data=out))
        await outside.send(h11.EndOfMessage())
        head = await outside.response(ANSWER_S_MAX)
        headers = [(key, scrubber.masked(value)) for key, value in passed(head.headers)]
        await wire.send(h11.Response(status_code=head.status_code, headers=headers))
        masked = StreamScrubber(scrubber)
        try:
            async for piece in outside.body(PLAIN_BYTES_MAX):
                if out := masked.feed(piece):
                    await wire.send(h11.Data(data=out))
            if out := masked.finish():
                await wire.send(h11.Data(data=out))
            await wire.send(h11.EndOfMessage())
        except BadMessage as bad:
            raise Closed(f"the answer broke off: {bad.reason}") from bad

    async def _deny(
        self, owner: Owner, wire: Wire, action: str, subject: str, reason: str, *, status: int = 403,
    ) -> bool:
        await self._record(owner, action, subject, "deny", reason)
        await refuse(wire, status, self._secrets.scrubber.masked_text(reason), kind="egress_denied")
        return False

    async def _record(self, owner: Owner, action: str, subject: str, outcome: str, detail: str) -> None:
        await self._audit.record(f"worker:{owner.worker_id}@{owner.group}", action, subject, outcome, detail)
