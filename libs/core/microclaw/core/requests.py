"""The questions that services answer over the bus, and the answers.

A request is not durable: it has a deadline, and whoever asks may ask again. A request that changes something
therefore carries an id chosen by the asker (`command_id`); the same id never takes effect twice.
Each is sent to one service, named in the docstring.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from microclaw.core.approvals import Action
from microclaw.core.audit import Entry, Fault, Head
from microclaw.core.container import Container
from microclaw.core.kinds import MessageReceived


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all questions are."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """The answer when a request can't be met. `reason` is one line: what, why, what to do."""

    reason: str
    code: Literal["bad_request", "denied", "not_found", "conflict", "unavailable", "internal"] = "bad_request"


class StatusAsked(Request, frozen=True, kw_only=True, tag="service.status"):
    """To any service."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="service.status.answer"):
    service: str
    pid: int
    started_ms: int
    ready: bool
    #: What is worth knowing of this service, as name → short text or number.
    facts: dict[str, str | int | float | bool] = {}
    #: Troubles that the owner should see, one line each, newest first.
    troubles: tuple[str, ...] = ()


# --- router -----------------------------------------------------------------------------------------------------


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A registered chat."""

    chat: str
    folder: str
    name: str
    trigger: str = ""
    requires_trigger: bool = True
    is_main: bool = False
    added_ms: int = 0
    container: Container = Container()
    #: Direct chats of its people that joined it, besides `chat`.
    joined: tuple[str, ...] = ()


class GroupsAsked(Request, frozen=True, kw_only=True, tag="groups.list"):
    """To the router: the registered groups, and the chats that could be."""


class KnownChat(msgspec.Struct, frozen=True, kw_only=True):
    chat: str
    name: str
    #: Of a stranger's too, who waits outside.
    last_message_ms: int
    is_group: bool
    registered: bool
    #: Somebody who may speak there did: what is held at the door does not count, nor what we said ourselves.
    is_heard: bool = False


class Groups(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="groups.list.answer"):
    groups: tuple[Group, ...]
    chats: tuple[KnownChat, ...] = ()
    #: Where the owner is told things: of the main group's chats the one that was last heard of; "" = there is none.
    owner_chat: str = ""


class RegisterGroup(Request, frozen=True, kw_only=True, tag="groups.register"):
    """To the router: register a chat. Same chat again = update; a taken folder is refused. Answer: Group or Failed."""

    command_id: str
    chat: str
    folder: str
    name: str
    trigger: str = ""
    requires_trigger: bool = True
    #: None = as it was. From the owner only.
    container: Container | None = None


class ImportMessages(Request, frozen=True, kw_only=True, tag="messages.import"):
    """To the router, from the owner: messages of another installation's history, in the order in which they came.

    Nobody is woken. Those of registered chats are kept, once by chat and platform id, and count as read by the agent
    if `is_read`. Answer: Imported or Failed.
    """

    messages: tuple[MessageReceived, ...]
    is_read: bool = True


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="messages.import.answer"):
    #: Kept now, known before, and of chats that are not registered (only the chat is noted).
    added: int
    known: int
    elsewhere: int


class SearchMessages(Request, frozen=True, kw_only=True, tag="messages.search"):
    """To the router: past messages that hold all of these words, the newest first. Answer: FoundMessages or Failed.

    `viewer` is the group that asks, "" = the owner: a group finds what was written in its own chat, main and the owner
    what was written in any.
    """

    #: Words, and phrases in double quotes (`core.search.read_query`).
    query: str
    viewer: str = ""
    viewer_is_main: bool = False
    #: In this chat alone; "" = in all that may be seen.
    chat: str = ""
    #: Only messages before this number (`FoundMessages.more_before`); 0 = from the newest on.
    before: int = 0
    limit: int = 20


class AwaitAnswer(Request, frozen=True, kw_only=True, tag="messages.await"):
    """To the router, from the sandbox: the group's agent is about to ask its chat something; the next message there
    wakes it without calling it by name. Answer: Done or Failed."""

    command_id: str
    chat: str
    group: str


class FoundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is cut around the first hit. `is_own`: we said it."""

    number: int
    chat: str
    sender_name: str
    sent_ms: int
    text: str
    is_own: bool = False


class FoundMessages(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="messages.search.answer"):
    rows: tuple[FoundMessage, ...]
    #: Ask again with this for older ones; 0 = there are none.
    more_before: int = 0
    #: How many messages were searched, and when the newest of them was written (0 = there are none): the index is
    #: written with each message, so this is all there is.
    searched: int = 0
    newest_ms: int = 0


class GroupAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="groups.register.answer"):
    group: Group


# --- queue ------------------------------------------------------------------------------------------------------


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    group: str
    state: str
    attempt: int
    since_ms: int
    error: str = ""


class RunsAsked(Request, frozen=True, kw_only=True, tag="runs.list"):
    """To the queue: what runs, waits and lately failed."""

    limit: int = 50


class Runs(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="runs.list.answer"):
    running: tuple[RunRow, ...]
    waiting: tuple[RunRow, ...]
    failed: tuple[RunRow, ...]


# --- scheduler --------------------------------------------------------------------------------------------------


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is shown. `schedule` is `once` (ISO time), `interval` (ms) or `cron` (five fields)."""

    id: str
    group: str
    chat: str
    prompt: str
    schedule: Literal["once", "interval", "cron"]
    value: str
    timezone: str
    context: Literal["group", "isolated"]
    status: Literal["active", "paused", "completed"]
    next_run_ms: int | None
    last_run_ms: int | None = None
    last_result: str = ""
    created_ms: int = 0
    #: What becomes of missed times: one run for the latest, none, or all (`core.schedule.CatchUp`).
    catch_up: Literal["latest", "skip", "all"] = "latest"
    #: Decides before each run whether the model is asked; "" = it always is.
    script: str = ""


class CreateTask(Request, frozen=True, kw_only=True, tag="tasks.create"):
    """To the scheduler. `timezone` "" = the owner's. Answer: TaskAnswer or Failed."""

    command_id: str
    group: str
    chat: str
    prompt: str
    schedule: str
    value: str
    timezone: str = ""
    context: Literal["group", "isolated"] = "isolated"
    is_main: bool = False
    catch_up: Literal["latest", "skip", "all"] = "latest"
    script: str = ""


class ChangeTask(Request, frozen=True, kw_only=True, tag="tasks.change"):
    """To the scheduler. `viewer` is the group that asks, "" = the owner; a group may change only its own tasks unless
    `viewer_is_main`. Fields left None stay. Answer: TaskAnswer or Failed."""

    command_id: str
    task_id: str
    action: Literal["pause", "resume", "cancel", "update"]
    viewer: str = ""
    viewer_is_main: bool = False
    prompt: str | None = None
    schedule: str | None = None
    value: str | None = None
    catch_up: Literal["latest", "skip", "all"] | None = None
    context: Literal["group", "isolated"] | None = None
    timezone: str | None = None
    #: "" = none any more.
    script: str | None = None


class TasksAsked(Request, frozen=True, kw_only=True, tag="tasks.list"):
    """To the scheduler. A group sees its own tasks, main and the owner (viewer "") see all."""

    viewer: str = ""
    viewer_is_main: bool = False


class FireTask(Request, frozen=True, kw_only=True, tag="tasks.fire"):
    """To the scheduler: run this task now, besides its times. Answer: TaskAnswer or Failed."""

    command_id: str
    task_id: str


class TaskRunsAsked(Request, frozen=True, kw_only=True, tag="tasks.runs"):
    """To the scheduler: the runs of a task, the newest first. Answer: TaskRuns or Failed."""

    task_id: str
    limit: int = 50


class TaskRunRow(msgspec.Struct, frozen=True, kw_only=True):
    due_ms: int
    fired_ms: int
    #: None = it is under way.
    ended_ms: int | None
    #: `fired`, then `success`, `error` or `skipped` (nothing to do: no model was asked).
    status: str
    result: str
    run_id: str


class TaskRuns(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.runs.answer"):
    runs: tuple[TaskRunRow, ...]


class TaskAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.answer"):
    task: TaskRow


class Tasks(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tasks.list.answer"):
    tasks: tuple[TaskRow, ...]


# --- sandbox ----------------------------------------------------------------------------------------------------


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


# --- egress -----------------------------------------------------------------------------------------------------


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


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """It is done."""


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


class EgressRulesAsked(Request, frozen=True, kw_only=True, tag="egress.rules"):
    """To egress: the allow-list in force. Answer: EgressRules."""


class EgressRules(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="egress.rules.answer"):
    rules: tuple[EgressRule, ...]


class ChangeEgressRule(Request, frozen=True, kw_only=True, tag="egress.change"):
    """To egress: allow, deny, or forget what was said of this host, at once. Twice is once. Answer: Done or Failed.

    A deny is stronger than every allow, the configuration's included.
    """

    #: `host`, `host:port`, `*.suffix`.
    host: str
    verdict: Literal["allow", "deny", "forget"]
    group: str = ""


class ExplainEgress(Request, frozen=True, kw_only=True, tag="egress.explain"):
    """To egress: would this group reach this host now, and why (not)? It is resolved, not dialled."""

    host: str
    group: str = ""


class EgressExplained(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="egress.explain.answer"):
    allowed: bool
    reason: str
    addresses: tuple[str, ...] = ()


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


# --- console ----------------------------------------------------------------------------------------------------


class Say(Request, frozen=True, kw_only=True, tag="console.say"):
    """To the console connector: a person typed this. Answered (`Said`) once the journal has it."""

    chat: str
    text: str
    #: Chosen by the asker: the same id is one message, however often it is asked.
    platform_id: str
    sender: str = "owner"
    sender_name: str = "Owner"


class Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="console.said"):
    seq: int


class ConsoleLine(msgspec.Struct, frozen=True, kw_only=True):
    """One delivered reply. `number` is dense per chat, from 1."""

    number: int
    reply_id: str
    text: str
    origin: str
    sent_ms: int


class Read(Request, frozen=True, kw_only=True, tag="console.read"):
    """To the console connector: the replies of a chat after line `after`; waits up to `wait_ms` for the first."""

    chat: str
    after: int = 0
    wait_ms: int = 0
    #: Only tell the newest line's number (in `Lines.last`), to start reading from now.
    only_last: bool = False


class Lines(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="console.lines"):
    lines: tuple[ConsoleLine, ...]
    last: int


class Deliver(Request, frozen=True, kw_only=True, tag="message.send"):
    """To the router: send a message to a chat as a person would by `microclaw message send`. Answer: Done or Failed."""

    command_id: str
    chat: str
    text: str
    reply_to: str = ""


# --- connectors -------------------------------------------------------------------------------------------------


class SecretAsked(Request, frozen=True, kw_only=True, tag="secret.ask"):
    """To egress, from a connector alone: the secret that the configuration gives to that connector. Each time is an
    entry in the audit log. Never durable: a secret is in no journal. Answer: SecretValue or Failed."""


class SecretValue(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="secret.ask.answer"):
    value: str

    def __repr__(self) -> str:
        return "SecretValue(value=…)"


class ChannelStatusAsked(Request, frozen=True, kw_only=True, tag="channel.status"):
    """To a connector: how its channel is doing."""


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="channel.status.answer"):
    channel: str
    #: `logged_out`: only the owner can mend that. By evidence: what the transport itself said last.
    state: Literal["connecting", "connected", "waiting", "logged_out"]
    #: Since when it is in this state, Unix ms.
    since_ms: int
    #: Who we are there.
    account: str = ""
    #: When something last came from the platform, its heartbeats included; 0 = never.
    last_event_ms: int = 0
    #: Connections that failed in a row.
    failures: int = 0
    #: Why it is not connected; one line.
    trouble: str = ""
    #: Parts of replies that are on their way.
    queued: int = 0
    #: Parts that ended so within the last day.
    sent: int = 0
    failed: int = 0
    uncertain: int = 0
    expired: int = 0


#: Who answers what; of `ChannelStatusAsked` that is each connector.
ANSWERED_BY: dict[type[Request], str] = {
    GroupsAsked: "router", RegisterGroup: "router", Deliver: "router",
    RunsAsked: "queue",
    CreateTask: "scheduler", ChangeTask: "scheduler", TasksAsked: "scheduler",
    ImportMessages: "router", SearchMessages: "router", AwaitAnswer: "router",
    FireTask: "scheduler", TaskRunsAsked: "scheduler",
    SessionsAsked: "sandbox", SessionAsked: "sandbox", ForkSession: "sandbox",
    OpenDoor: "egress", CloseDoors: "egress",
    SetSecret: "egress", RemoveSecret: "egress", SecretsAsked: "egress",
    EgressRulesAsked: "egress", ChangeEgressRule: "egress", ExplainEgress: "egress",
    AuditAsked: "egress", VerifyAudit: "egress", UsageAsked: "egress",
    SetBudget: "egress", BudgetAsked: "egress",
    SecretAsked: "egress",
    AskApproval: "egress", AnswerApproval: "egress", ApprovalsAsked: "egress",
    Say: "console", Read: "console",
}
