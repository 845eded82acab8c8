"""Egress on the bus: answers requests about doors, secrets, rules, usage and the audit log; takes in audit entries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from microclaw.bus.api import Delivery, Draft, Subscription
from microclaw.bus.service import Answerer, Service
from microclaw.core.egress_rules import TOOLS, parse_authority
from microclaw.core.kinds import ApprovalAnswered, AuditEntry
from microclaw.core.requests import (
    AnswerApproval,
    ApprovalRuling,
    Approvals,
    ApprovalsAsked,
    AskApproval,
    AuditAsked,
    AuditEntries,
    AuditVerified,
    BudgetAsked,
    Budgets,
    ChangeEgressRule,
    CloseDoors,
    Done,
    Door,
    EgressExplained,
    EgressRule,
    EgressRules,
    EgressRulesAsked,
    EgressWay,
    ExplainEgress,
    Failed,
    OpenDoor,
    RemoveSecret,
    SecretAnswer,
    SecretAsked,
    SecretRow,
    Secrets,
    SecretsAsked,
    SetBudget,
    SetSecret,
    UsageAsked,
    UsageRows,
    VerifyAudit,
)
from microclaw.core.sentinels import Binding, binding
from microclaw.egress.connector_secrets import ConnectorSecrets, connectors_of, tell_renewed
from microclaw.egress.dial import resolved
from microclaw.egress.gate import Gate
from microclaw.egress.privacy import hide_in_logs, hold_many_sockets, keep_memory_private
from microclaw.egress.secret_store import Kept

#: Rows and bytes of one answer, so that it fits into a frame.
AUDIT_ROWS_MAX = 500
ANSWER_BYTES_MAX = 512 << 10
#: Who may change what protects the owner: nobody but the owner, whose commands come by this name.
OWNER = "cli"
#: Who else may ask anything here; a connector may only ask for its own secret.
HOUSE = frozenset({OWNER, "router", "queue", "scheduler", "sandbox", "gateway"})
#: How often the numbers in `status` are renewed.
FACTS_S = 5.0


async def serve(service: Service) -> None:
    """The service's life."""
    keep_memory_private()
    hold_many_sockets()
    gate = Gate(service.settings, service.home)
    hide_in_logs(lambda text: gate.secrets.scrubber.masked_text(text))
    reopened = await gate.start()
    service.log.info("doors reopened", extra={"count": reopened})
    if gate.audit.trouble:
        service.trouble(gate.audit.trouble)
    Answers(service, gate).register()
    service.consume(Subscription("egress-audit", ("audit.entry",)), AuditIntake(gate).take, concurrency=8)
    service.consume(Subscription("egress-approvals", ("approval.answered",)), ApprovalIntake(gate).take)
    service.spawn(_keep_facts(service, gate), "facts")
    service.spawn(gate.notices.keep_telling(service.bus, service.trouble), "notices")
    await service.ready()
    try:
        await service.stopping.wait()
    finally:
        await gate.stop()


async def _keep_facts(service: Service, gate: Gate) -> None:
    while True:
        service.facts |= {
            "doors": len(gate.doors), "connections": gate.connections.open, "tunnels": gate.proxy.under_way,
            "secrets": len(gate.secrets.names()),
            "secrets_store": gate.secrets.store, "audit_entries": gate.audit.head.number,
            "audit_head": gate.audit.head.hash.hex()[:16],
        }
        await asyncio.sleep(FACTS_S)


class AuditIntake:
    """Other services' entries."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def take(self, delivery: Delivery) -> Sequence[Draft]:
        """Chain it. A redelivery is known by its message id."""
        entry = delivery.envelope.read(AuditEntry)
        await self._gate.audit.record(
            entry.actor, entry.action, entry.subject, entry.outcome, entry.detail,
            cause=delivery.envelope.message_id,
        )
        return ()


class ApprovalIntake:
    """The owner's answers from the main chat; the router knows who that is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def take(self, delivery: Delivery) -> Sequence[Draft]:
        """The first valid answer counts, and the same envelope again is the same answer."""
        said = delivery.envelope.read(ApprovalAnswered)
        message_id = delivery.envelope.message_id
        problem = await self._gate.approvals.answer(
            said.code, said.answer, f"owner in {said.chat}"[:200], cause=message_id
        )
        if problem:
            await self._gate.notices.add(f"refused {message_id.hex()}", f"{said.code}: {problem}.")
        return ()


class Answers:
    """What egress answers; every change is an audit entry."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate
        #: One change of the secrets at a time.
        self._keeping = asyncio.Lock()

    def register(self) -> None:
        """Answer all of egress's requests."""
        answers: dict[type[Any], Any] = {
            OpenDoor: self.open_door, CloseDoors: self.close_doors,
            SetSecret: self.set_secret, RemoveSecret: self.remove_secret, SecretsAsked: self.list_secrets,
            EgressRulesAsked: self.list_rules, ChangeEgressRule: self.change_rule, ExplainEgress: self.explain,
            AuditAsked: self.read_audit, VerifyAudit: self.verify_audit, UsageAsked: self.read_usage,
            AskApproval: self.ask_approval, AnswerApproval: self.answer_approval, ApprovalsAsked: self.list_approvals,
            SetBudget: self.set_budget, BudgetAsked: self.read_budget,
        }
        for question, handler in answers.items():
            self._service.answer(question, _for_the_house(handler))
        self._service.answer(SecretAsked, ConnectorSecrets(self._gate).on_ask)

    async def open_door(self, question: OpenDoor, asker: str) -> Door:
        """A worker's way out."""
        gate = self._gate
        folder = await gate.doors.open(question.worker_id, question.group, now_ms=gate.world.clock_ms())
        await gate.audit.record(asker, "door.open", f"{question.worker_id}@{question.group}", "ok")
        model = gate.settings.model
        return Door(directory=str(folder), backend=model.backend, model=model.name)

    async def close_doors(self, question: CloseDoors, asker: str) -> Done:
        """Workers that ended."""
        closed = await self._gate.doors.close(question.workers, keep_only=question.keep_only)
        if closed:
            await self._gate.audit.record(asker, "door.close", f"{closed} doors", "ok")
        return Done()

    async def set_secret(self, question: SetSecret, asker: str) -> SecretAnswer | Failed:
        """In force when answered."""
        if asker != OWNER:
            return _not_yours("secrets", asker)
        gate = self._gate
        wanted = binding(question.name, question.hosts, question.groups)
        action, lent = "secret.rotate", ""
        async with self._keeping:
            gate.bindings.check(wanted)
            # In a thread: the system's keeper may take its time, and doors go on working.
            kept = await asyncio.to_thread(
                gate.secrets.set, question.name, question.value, must_exist=question.must_exist
            )
            if not question.must_exist:
                await gate.bindings.set(wanted)
        if not question.must_exist:
            action = "secret.set"
            lent = f", lent for {wanted.places} to {', '.join(wanted.groups) or 'all groups'}" if wanted.hosts else ""
        await gate.audit.record(asker, action, kept.name, "ok", f"fingerprint {kept.fingerprint}{lent}")
        if connectors := connectors_of(gate.settings.channels, kept.name):
            self._service.spawn(tell_renewed(self._service.bus, connectors), f"tell of {kept.name}")
        return SecretAnswer(secret=_row(kept, gate.bindings.of(kept.name)))

    async def remove_secret(self, question: RemoveSecret, asker: str) -> Done | Failed:
        """Forget it."""
        if asker != OWNER:
            return _not_yours("secrets", asker)
        async with self._keeping:
            await self._gate.bindings.set(Binding(question.name, ()))
            known = await asyncio.to_thread(self._gate.secrets.remove, question.name)
        if not known:
            return Failed(reason=f"there is no secret {question.name}: see `microclaw secrets list`", code="not_found")
        await self._gate.audit.record(asker, "secret.rm", question.name, "ok")
        return Done()

    async def list_secrets(self, _question: SecretsAsked, _asker: str) -> Secrets:
        """Names only."""
        gate = self._gate
        return Secrets(secrets=tuple(_row(kept, gate.bindings.of(kept.name)) for kept in gate.secrets.names()))

    async def list_rules(self, _question: EgressRulesAsked, _asker: str) -> EgressRules:
        """In force."""
        return EgressRules(rules=tuple(
            EgressRule(
                host=item.rule.host, port=item.rule.port, verdict="allow" if item.rule.allow else "deny",
                group=item.rule.group, origin="config" if item.rule.origin == "config" else "cli",
                added_ms=item.added_ms, tool=item.rule.tool, websocket=item.rule.websocket, opaque=item.rule.opaque,
            )
            for item in self._gate.rules.all
        ))

    async def change_rule(self, question: ChangeEgressRule, asker: str) -> Done | Failed:
        """From the next connection on."""
        if asker != OWNER:
            return _not_yours("where agents may go", asker)
        gate = self._gate
        changed = await gate.rules.change(
            question.host, question.verdict, question.group, now_ms=gate.world.clock_ms(), tool=question.tool,
            websocket=question.websocket, opaque=question.opaque,
        )
        if not changed:
            return Failed(
                reason=f"no rule of yours names {question.host}: see `microclaw egress list`; what the configuration "
                "allows is denied with `microclaw egress deny`", code="not_found",
            )
        subject = f"{question.host} for {question.group or 'all groups'}"
        words = (question.tool, "websocket" if question.websocket else "", "opaque" if question.opaque else "")
        await gate.audit.record(asker, f"egress.{question.verdict}", subject, "ok", " ".join(filter(None, words)))
        return Done()

    async def explain(self, question: ExplainEgress, _asker: str) -> EgressExplained:
        """As the door would decide now."""
        host, port = parse_authority(question.host)
        verdicts = {
            tool: self._gate.rules.decide(host, port, question.group, tool)
            for tool in TOOLS if question.tool in ("", tool)
        }
        ways = tuple(
            EgressWay(
                tool=tool, allowed=verdict.allowed, reason=verdict.reason, websocket=verdict.websocket,
                opaque=verdict.opaque, read=tool == "bash" and verdict.allowed and self._gate.trust.reads(
                    host, port, opaque=verdict.opaque, lent=self._gate.bindings.lent_to(question.group)
                ),
            )
            for tool, verdict in verdicts.items()
        )
        reason = "; ".join(dict.fromkeys(
            way.reason for way in ways if way.allowed or not any(other.allowed for other in ways)
        ))
        if not any(way.allowed for way in ways):
            return EgressExplained(allowed=False, reason=reason, ways=ways)
        found = await resolved(self._gate.world, host, port)
        return EgressExplained(
            allowed=found.verdict.allowed, reason=f"{reason}; {found.verdict.reason}", addresses=found.addresses,
            ways=ways,
        )

    async def read_audit(self, question: AuditAsked, _asker: str) -> AuditEntries:
        """A page of it."""
        limit = max(1, min(question.limit, AUDIT_ROWS_MAX))
        log = self._gate.audit
        found = await (log.tail(limit) if question.tail else log.entries(after=question.after, limit=limit))
        while len(found) > 1 and len(msgspec.msgpack.encode(found)) > ANSWER_BYTES_MAX:
            half = len(found) // 2
            found = found[half:] if question.tail else found[:half]
        return AuditEntries(entries=tuple(found))

    async def verify_audit(self, _question: VerifyAudit, _asker: str) -> AuditVerified:
        """The whole chain."""
        head, faults = await self._gate.audit.verify()
        return AuditVerified(head=head, faults=tuple(faults[:100]))

    async def read_usage(self, question: UsageAsked, _asker: str) -> UsageRows:
        """What models cost."""
        gate = self._gate
        rows = gate.budgets.priced(await gate.meter.rows(since_day=question.since_day))
        return UsageRows(rows=rows, currency=gate.settings.budget.currency)

    async def set_budget(self, question: SetBudget, asker: str) -> Done | Failed:
        """From the next call on."""
        if asker != OWNER:
            return _not_yours("budgets", asker)
        await self._gate.budgets.set(question)
        wanted = "forget" if question.forget else f"tokens {question.tokens_per_day}, money {question.money_per_day}"
        await self._gate.audit.record(asker, "budget.set", question.group or "all groups", "ok", wanted)
        return Done()

    async def read_budget(self, _question: BudgetAsked, _asker: str) -> Budgets:
        """Limits and what of them is used today."""
        return await self._gate.budgets.shown()

    async def ask_approval(self, question: AskApproval, asker: str) -> ApprovalRuling | Failed:
        """For a doing of an agent that another service carries out."""
        if not question.use_id or question.action.kind == "host":
            return Failed(reason="approvals are asked for with a use_id, and hosts at the door only")
        return await self._gate.approvals.ask(question.action, question.use_id, f"service:{asker}")

    async def answer_approval(self, question: AnswerApproval, asker: str) -> Done | Failed:
        """At the command line."""
        if asker != OWNER:
            return _not_yours("approvals", asker)
        desk = self._gate.approvals
        problem = (
            await desk.revoke(question.code, asker) if question.answer == "revoke"
            else await desk.answer(question.code, question.answer, asker)
        )
        return Failed(reason=f"{question.code}: {problem}", code="conflict") if problem else Done()

    async def list_approvals(self, question: ApprovalsAsked, _asker: str) -> Approvals:
        """As they stand."""
        return Approvals(rows=await self._gate.approvals.rows(everything=question.all))


def _for_the_house(handler: Answerer) -> Answerer:
    async def answer(question: Any, asker: str) -> msgspec.Struct:
        if asker not in HOUSE:
            return Failed(reason=f"{asker} may ask egress for nothing but its own secret", code="denied")
        return await handler(question, asker)

    return answer


def _not_yours(what: str, asker: str) -> Failed:
    return Failed(reason=f"{asker} may not change {what}: only the owner may, at the command line", code="denied")


def _row(kept: Kept, lent: Binding | None) -> SecretRow:
    row = SecretRow(name=kept.name, set_ms=kept.set_ms, fingerprint=kept.fingerprint)
    if lent is None:
        return row
    hosts = tuple(f"{host}:{port}" for host, port in lent.hosts)
    return msgspec.structs.replace(row, hosts=hosts, groups=lent.groups, variable=lent.variable)
