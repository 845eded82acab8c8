"""The questions that services answer over the bus, and the answers.

A request is not durable: it has a deadline, and whoever asks may ask again. A request that changes something
therefore carries an id chosen by the asker (`command_id`); the same id never takes effect twice.
Each is sent to one service, named in the docstring.

A module for each service that is asked; `asking` is what all share.
"""

from __future__ import annotations

from microclaw.core.requests.asking import (
    Done,
    Failed,
    Request,
    ServiceStatus,
    StatusAsked,
)
from microclaw.core.requests.connectors import (
    ChannelStatus,
    ChannelStatusAsked,
    SecretAsked,
    SecretRenewed,
    SecretValue,
)
from microclaw.core.requests.console import (
    ConsoleLine,
    Lines,
    Read,
    Said,
    Say,
)
from microclaw.core.requests.egress import (
    AnswerApproval,
    ApprovalRow,
    ApprovalRuling,
    Approvals,
    ApprovalsAsked,
    AskApproval,
    AuditAsked,
    AuditEntries,
    AuditVerified,
    BudgetAsked,
    BudgetRow,
    Budgets,
    ChangeEgressRule,
    CloseDoors,
    Door,
    EgressExplained,
    EgressRule,
    EgressRules,
    EgressRulesAsked,
    EgressWay,
    ExplainEgress,
    OpenDoor,
    RemoveSecret,
    SecretAnswer,
    SecretRow,
    Secrets,
    SecretsAsked,
    SetBudget,
    SetSecret,
    UsageAsked,
    UsageRow,
    UsageRows,
    VerifyAudit,
)
from microclaw.core.requests.queue import (
    RunRow,
    Runs,
    RunsAsked,
)
from microclaw.core.requests.router import (
    AwaitAnswer,
    Deliver,
    FoundMessage,
    FoundMessages,
    Group,
    GroupAnswer,
    Groups,
    GroupsAsked,
    Imported,
    ImportMessages,
    KnownChat,
    ModelAsked,
    ModelChosen,
    RegisterGroup,
    SearchMessages,
)
from microclaw.core.requests.sandbox import (
    ForkSession,
    Session,
    SessionAsked,
    SessionRow,
    Sessions,
    SessionsAsked,
    SessionTurn,
)
from microclaw.core.requests.scheduler import (
    ChangeTask,
    CreateTask,
    FireTask,
    TaskAnswer,
    TaskRow,
    TaskRunRow,
    TaskRuns,
    TaskRunsAsked,
    Tasks,
    TasksAsked,
)

__all__ = [
    "ANSWERED_BY", "AnswerApproval", "ApprovalRow", "ApprovalRuling", "Approvals", "ApprovalsAsked",
    "AskApproval", "AuditAsked", "AuditEntries", "AuditVerified", "AwaitAnswer", "BudgetAsked", "BudgetRow",
    "Budgets", "ChangeEgressRule", "ChangeTask", "ChannelStatus", "ChannelStatusAsked", "CloseDoors",
    "ConsoleLine", "CreateTask", "Deliver", "Done", "Door", "EgressExplained", "EgressRule", "EgressRules",
    "EgressRulesAsked", "EgressWay", "ExplainEgress", "Failed", "FireTask", "ForkSession", "FoundMessage",
    "FoundMessages", "Group", "GroupAnswer", "Groups", "GroupsAsked", "ImportMessages", "Imported", "KnownChat",
    "Lines", "ModelAsked", "ModelChosen", "OpenDoor", "Read", "RegisterGroup",
    "RemoveSecret", "Request", "RunRow", "Runs", "RunsAsked", "Said",
    "Say", "SearchMessages", "SecretAnswer", "SecretAsked", "SecretRenewed", "SecretRow", "SecretValue",
    "Secrets", "SecretsAsked", "ServiceStatus", "Session", "SessionAsked", "SessionRow", "SessionTurn", "Sessions",
    "SessionsAsked", "SetBudget", "SetSecret", "StatusAsked", "TaskAnswer", "TaskRow", "TaskRunRow", "TaskRuns",
    "TaskRunsAsked", "Tasks", "TasksAsked", "UsageAsked", "UsageRow", "UsageRows", "VerifyAudit",
]

#: Who answers what; of `ChannelStatusAsked` and `SecretRenewed` that is each connector.
ANSWERED_BY: dict[type[Request], str] = {
    GroupsAsked: "router", RegisterGroup: "router", Deliver: "router",
    RunsAsked: "queue",
    CreateTask: "scheduler", ChangeTask: "scheduler", TasksAsked: "scheduler",
    ImportMessages: "router", SearchMessages: "router", AwaitAnswer: "router",
    ModelAsked: "router",
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
