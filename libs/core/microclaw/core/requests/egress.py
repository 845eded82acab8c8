"""What is asked of egress: doors, secrets, rules, the audit log, usage, budgets, approvals."""

from __future__ import annotations

from typing import Literal

import msgspec

from microclaw.core.approvals import Action
from microclaw.core.audit import Entry, Fault, Head
from microclaw.core.egress_rules import Tool
from microclaw.core.requests.asking import Request


class OpenDoor(Request, frozen=True, kw_only=True, tag="egress.open"):
    """To egress: a Unix socket for one worker. The same worker again gets the same door. Answer: Door or Failed."""

    worker_id: str
    group: str


class Door(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="egress.open.answer"):
    #: Directory on the host that holds `egress.sock`; mounted read-only at `/run/egress`.
    directory: str
    #: The model route the worker should use: "" when no model is configured (the local skills answer).
    backend: str = ""
    model: str = ""


class CloseDoors(Request, frozen=True, kw_only=True, tag="egress.close"):
    """To egress: close these workers' doors; `keep_only` True closes all *but* these. Answer: Done."""

    workers: tuple[str, ...]
    keep_only: bool = False


class SetSecret(Request, frozen=True, kw_only=True, tag="secrets.set"):
    """To egress: keep or replace a secret, in force when answered. Doing it twice is doing it once.

    Requests are not durable: no journal, outbox or log ever holds the value, and nothing answers it back. Answer:
    SecretAnswer or Failed.
    """

    name: str
    value: str
    #: Replace the value only (`rotate`): to whom it is lent stays.
    must_exist: bool = False
    #: Lent to agents for these hosts (`host[:port]`), by a sentinel; empty = to none.
    hosts: tuple[str, ...] = ()
    #: Of these groups; empty = of all.
    groups: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"SetSecret(name={self.name!r}, value=<hidden>, must_exist={self.must_exist})"


class RemoveSecret(Request, frozen=True, kw_only=True, tag="secrets.rm"):
    """To egress: forget a secret. Answer: Done or Failed."""

    name: str


class SecretsAsked(Request, frozen=True, kw_only=True, tag="secrets.list"):
    """To egress: which secrets there are, never their values. Answer: Secrets."""


class SecretRow(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told of a secret."""

    name: str
    set_ms: int
    #: The same value has the same one in this installation.
    fingerprint: str
    #: Where agents may use it (`host:port`), those of which groups (empty = all), and its variable inside.
    hosts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    variable: str = ""


class SecretAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="secrets.set.answer"):
    secret: SecretRow


class Secrets(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="secrets.list.answer"):
    secrets: tuple[SecretRow, ...]


class EgressRule(msgspec.Struct, frozen=True, kw_only=True):
    """Who may (not) go where. `group` "" = all groups; `host` exact or `*.suffix`."""

    host: str
    port: int
    verdict: Literal["allow", "deny"]
    group: str = ""
    origin: Literal["config", "cli"] = "cli"
    added_ms: int = 0
    #: "" = all.
    tool: Tool | Literal[""] = ""
    #: Of an allow, as `core.egress_rules.Rule` has them.
    websocket: bool = False
    opaque: bool = False


class EgressRulesAsked(Request, frozen=True, kw_only=True, tag="egress.rules"):
    """To egress: the allow-list in force. Answer: EgressRules."""


class EgressRules(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="egress.rules.answer"):
    rules: tuple[EgressRule, ...]


class ChangeEgressRule(Request, frozen=True, kw_only=True, tag="egress.change"):
    """To egress: allow, deny, or forget what was said of this host, at once. Twice is once. Answer: Done or Failed.

    A deny is stronger than every allow, the configuration's included. What was said before of the same host, port,
    group and tool is replaced.
    """

    #: `host`, `host:port`, `*.suffix`.
    host: str
    verdict: Literal["allow", "deny", "forget"]
    group: str = ""
    #: "" = all.
    tool: Tool | Literal[""] = ""
    #: Of an allow only.
    websocket: bool = False
    opaque: bool = False


class ExplainEgress(Request, frozen=True, kw_only=True, tag="egress.explain"):
    """To egress: would this group reach this host now, and why (not)? It is resolved, not dialled."""

    host: str
    group: str = ""
    #: By this way; "" = by any.
    tool: Tool | Literal[""] = ""


class EgressWay(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules say of one way to a host."""

    tool: Tool
    allowed: bool
    reason: str
    websocket: bool = False
    opaque: bool = False
    #: Programs' TLS tunnels there are opened: no rule says `opaque`, and the setting `egress.read_tls` says so.
    read: bool = False


class EgressExplained(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="egress.explain.answer"):
    """`allowed`: by one of the ways asked about, and its addresses may be dialled."""

    allowed: bool
    reason: str
    addresses: tuple[str, ...] = ()
    ways: tuple[EgressWay, ...] = ()


class AuditAsked(Request, frozen=True, kw_only=True, tag="audit.read"):
    """To egress: entries after number `after` (oldest first), or with `tail` the newest ones. Answer: AuditEntries."""

    after: int = 0
    limit: int = 100
    tail: bool = False


class AuditEntries(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="audit.read.answer"):
    entries: tuple[Entry, ...]


class VerifyAudit(Request, frozen=True, kw_only=True, tag="audit.verify"):
    """To egress: follow the whole chain. Answer: AuditVerified."""


class AuditVerified(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="audit.verify.answer"):
    #: Number and hash of the last entry stored.
    head: Head
    #: Empty: nothing was deleted, reordered, edited or cut off.
    faults: tuple[Fault, ...] = ()


class UsageAsked(Request, frozen=True, kw_only=True, tag="usage.read"):
    """To egress: what model calls cost from day `since_day` (YYYY-MM-DD) on. Answer: UsageRows."""

    since_day: str = ""


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one group's calls of one model on one day. Input includes what the provider had cached."""

    day: str
    group: str
    model: str
    calls: int
    #: Calls whose answers did not say what they cost.
    unknown_calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    #: Millionths of the currency; None = the model's price is not known.
    cost_micros: int | None = None


class UsageRows(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="usage.read.answer"):
    rows: tuple[UsageRow, ...]
    currency: str = ""


class SetBudget(Request, frozen=True, kw_only=True, tag="budget.set"):
    """To egress: the most of a day, from now on; it stands above the configuration's. Twice is once.

    Fields left None stay. `forget` gives the word back to the configuration. Answer: Done or Failed.
    """

    #: "" = all groups together.
    group: str = ""
    #: 0 = no limit.
    tokens_per_day: int | None = None
    money_per_day: float | None = None
    forget: bool = False


class BudgetAsked(Request, frozen=True, kw_only=True, tag="budget.read"):
    """To egress: limits, and what of them is used today. Answer: Budgets."""


class BudgetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A day's limits and what is used; 0 = no limit. `group` "" = all groups together."""

    group: str
    tokens_per_day: int
    money_per_day_micros: int
    spent_tokens: int
    spent_micros: int
    origin: Literal["config", "cli", "none"]


class Budgets(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="budget.read.answer"):
    day: str
    currency: str
    rows: tuple[BudgetRow, ...]


class AskApproval(Request, frozen=True, kw_only=True, tag="approvals.ask"):
    """To egress: may this be done now? If the owner has not said so yet, the owner is asked.

    A yes for once is used up by the `use_id` that got it; the same one again is still that one time. Answer:
    ApprovalRuling or Failed.
    """

    action: Action
    use_id: str


class ApprovalRuling(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="approvals.ask.answer"):
    allowed: bool
    #: One line for the agent when not.
    reason: str = ""
    #: Under which the owner was asked, "" = was not.
    code: str = ""


class AnswerApproval(Request, frozen=True, kw_only=True, tag="approvals.answer"):
    """To egress, from the command line alone. `revoke` takes back an `always`. Answer: Done or Failed."""

    code: str
    answer: Literal["once", "always", "deny", "revoke"]


class ApprovalsAsked(Request, frozen=True, kw_only=True, tag="approvals.list"):
    """To egress: what waits for the owner's yes, what always holds, and with `all` also what is over."""

    all: bool = False


class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    action: Action
    state: Literal["pending", "once", "always", "used", "denied", "revoked", "expired"]
    asked_ms: int
    expires_ms: int
    answered_ms: int | None = None
    answered_by: str = ""


class Approvals(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="approvals.list.answer"):
    rows: tuple[ApprovalRow, ...]
