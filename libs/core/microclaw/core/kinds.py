"""The message kinds: each defined here once, and nowhere else.

A kind is a msgspec struct whose tag is the subject that subscribers filter on (`payload.kind`). Unknown fields are
ignored, so that an older service can read a newer message; wrong types are refused. Times are Unix milliseconds (UTC)
and end in `_ms`. A *chat* is an address, `channel:native-id` (`console:main`, `telegram:-100123`); a *group* is the
folder name of a registered chat's agent; `""` means absent in text fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Payload(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds are."""


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The message that another one answers."""

    id: str
    sender_name: str = ""
    text: str = ""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that came with a message: by handle, never inline."""

    #: Content address in the attachment store: `sha256:<hex>`.
    handle: str
    name: str
    mime: str
    size_bytes: int


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One chat message as the agent will read it."""

    id: str
    sender_name: str
    #: When it was written, by its platform's clock.
    sent_ms: int
    text: str
    quote: Quote | None = None
    attachments: tuple[Attachment, ...] = ()
    #: Who wrote it, with the channel (`telegram:12345`); "" = an older router did not say.
    sender: str = ""
    #: It is the own word of the owner, or of somebody whom the owner let in, alone (`core.people.is_trusted`).
    is_trusted: bool = False


class MessageReceived(Payload, frozen=True, kw_only=True, tag="message.received"):
    """Somebody wrote in a chat. Session: the chat. Source: its connector."""

    chat: str
    #: The platform's own id of the message, unique in the chat.
    platform_id: str
    #: The platform's own id of who wrote it, without the channel (`12345`, `ann@example.org`): never the shown name.
    sender: str
    sender_name: str
    text: str
    sent_ms: int
    chat_name: str = ""
    is_group: bool = False
    #: False: the platform does not vouch for `sender` (a mail whose From nobody has checked); so it is nobody we know.
    is_sender_proven: bool = True
    #: The sender is a program, as its platform says.
    from_bot: bool = False
    #: The connector's account wrote it (the owner from the same account, or we ourselves).
    from_me: bool = False
    #: We wrote it: known by id from the connector's ledger, never guessed by text.
    is_own_reply: bool = False
    #: This is a newer text of a message already received.
    is_edit: bool = False
    #: Somebody passes on what another one wrote: never a command.
    is_forwarded: bool = False
    #: The platform says that it is meant for us: our account is mentioned or answered. As good as the trigger.
    is_for_us: bool = False
    quote: Quote | None = None
    attachments: tuple[Attachment, ...] = ()


class NamedChat(msgspec.Struct, frozen=True, kw_only=True):
    """A group chat that a connector's account is in."""

    chat: str
    name: str


class ChatsNamed(Payload, frozen=True, kw_only=True, tag="chats.named"):
    """These group chats are called so, whether anybody ever wrote there or not. Session: the first of them."""

    #: All of the connector's own channel.
    chats: tuple[NamedChat, ...]


class ScheduledTask(msgspec.Struct, frozen=True, kw_only=True):
    """The task behind a run."""

    task_id: str
    prompt: str
    #: The moment it was due: together with `task_id` the name of this fire.
    due_ms: int
    context: Literal["group", "isolated"] = "isolated"
    #: A shell script that runs in the group's sandbox first: what it says decides whether the model is asked.
    script: str = ""
    #: It is the house's own look at HEARTBEAT.md: nothing to do and nothing to say are its usual ends.
    is_heartbeat: bool = False


class RunRequested(Payload, frozen=True, kw_only=True, tag="run.requested"):
    """A group has something to do: messages to answer, or a task that is due. Session: `group:<folder>`.

    From the router (messages, in the order of the journal, each in exactly one request) or the scheduler (one task).
    """

    group: str
    chat: str
    is_main: bool = False
    messages: tuple[PromptMessage, ...] = ()
    task: ScheduledTask | None = None


class TaskWithdrawn(Payload, frozen=True, kw_only=True, tag="task.withdrawn"):
    """A task was cancelled or paused: what it asked for and has not begun is not to run. Session: `group:<folder>`.

    Source: scheduler. Each of its fires that is dropped so ends by a `run.finished` of the queue (`withdrawn`).
    """

    group: str
    task_id: str


class RunGranted(Payload, frozen=True, kw_only=True, tag="run.granted"):
    """The queue lets a group's agent run. Session: `group:<folder>`.

    `run_id` stays the same when the same grant is delivered again, so whatever the run causes has the same ids.
    A task's run has one `run_id` in all its grants: it is granted again if it found nothing to run in.
    """

    run_id: str
    #: 1 for the first try of these messages.
    attempt: int
    group: str
    chat: str
    is_main: bool = False
    messages: tuple[PromptMessage, ...] = ()
    task: ScheduledTask | None = None
    #: Not to be begun after this moment (one begun before may go on): by then the queue counts it as lost and may have
    #: granted the messages anew. Ends as a failed, retryable run. 0 = no such bound.
    expires_ms: int = 0


class RunFinished(Payload, frozen=True, kw_only=True, tag="run.finished"):
    """A granted run came to its end. Session: `group:<folder>`. Source: sandbox."""

    run_id: str
    attempt: int
    group: str
    ok: bool
    #: One line for the owner when not `ok`.
    error: str = ""
    #: Trying again may help (a crashed worker, a model that is down); a bad key or a missing engine it does not.
    retryable: bool = True
    #: Something of this run has already reached the chat: it is never tried again.
    visible: bool = False
    #: There was nothing to run it in: nothing was tried, and what it carries waits for that. It is no task's end.
    waiting: bool = False
    #: What was said, for the task log (cut to `core.tasks.RESULT_CHARS_MAX`).
    result: str = ""
    #: It was a task with nothing to do: no model was asked; `result` says who found that.
    skipped: bool = False
    #: It was a task that was withdrawn before it began; the queue says so.
    withdrawn: bool = False


class ReplyRequested(Payload, frozen=True, kw_only=True, tag="reply.requested"):
    """Say this in a chat. Session: the chat; its connector delivers it once."""

    chat: str
    text: str
    #: `answer` of a run, `notice` of the house (a run failed for good), `message` sent by a person or a tool.
    origin: Literal["answer", "notice", "message"] = "answer"
    run_id: str = ""
    #: The platform id that it answers, where the channel can show that.
    reply_to: str = ""
    attachments: tuple[Attachment, ...] = ()
    #: Not worth sending after this moment; 0 = always.
    expires_ms: int = 0


class ReplyDelivered(Payload, frozen=True, kw_only=True, tag="reply.delivered"):
    """How a reply ended. Session: the chat. Source: its connector."""

    chat: str
    #: `ids.id_text` of the `reply.requested` envelope.
    reply_id: str
    status: Literal["sent", "failed", "uncertain", "expired"]
    platform_id: str = ""
    error: str = ""


class ControlRequested(Payload, frozen=True, kw_only=True, tag="control.requested"):
    """The owner's word past the agent. Session: `control:<action>:<group>`. Source: router."""

    group: str
    #: End the run under way; put the group's session aside; have the conversation told to the model as a summary, and
    #: take that back.
    action: Literal["stop", "new", "compact", "uncompact"]
    #: Where it was said.
    chat: str


class PresenceChanged(Payload, frozen=True, kw_only=True, tag="presence.changed"):
    """The agent is at work for a chat, or no longer. Session: the chat. Source: sandbox. Connectors may show it."""

    chat: str
    state: Literal["composing", "paused"]
    run_id: str
    #: Not worth showing after this moment.
    expires_ms: int
    #: What it has written of its answer so far, where the channel shows that: may be taken back, is no message.
    draft: str = ""


class AuditEntry(Payload, frozen=True, kw_only=True, tag="audit.entry"):
    """Something that belongs in the audit log. Session: `service:<source>`. Egress chains it; holds no secret."""

    #: Who: `worker:<id>@<group>`, `cli`, `service:<name>`.
    actor: str
    #: What: dotted lower-case words.
    action: str
    #: To what.
    subject: str
    #: `allow`, `deny`, `ok`, `failed`, …
    outcome: str
    detail: str = ""


class DeadLetter(Payload, frozen=True, kw_only=True, tag="bus.dead_letter"):
    """A consumer group gave up a message; `microclaw bus dlq` has it. Session: `dlq.<group>`. Source: broker."""

    group: str
    #: Its place in the journal, by which `bus dlq` knows it.
    offset: int
    #: Where it stands, and its kind; "" and 0 = it can't be read.
    session: str
    seq: int
    what: str
    reason: str
    #: How often it was delivered.
    count: int
    first_error: str = ""
    last_error: str = ""


class ApprovalAnswered(Payload, frozen=True, kw_only=True, tag="approval.answered"):
    """The owner answered in the main chat (`/approve`, `/deny`). Session: that chat. Source: router."""

    code: str
    answer: Literal["once", "always", "deny"]
    #: Where it was said.
    chat: str


class ServiceAlarm(Payload, frozen=True, kw_only=True, tag="service.alarm"):
    """A service is in trouble that the owner should know. Session: `service:<name>`. Source: watch."""

    service: str
    state: str
    detail: str


#: Every durable kind by its subject; docs, the C header and the broker's rights are made from this.
KINDS: dict[str, type[Payload]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        ControlRequested,
        MessageReceived, ChatsNamed, RunRequested, TaskWithdrawn, RunGranted, RunFinished, ReplyRequested,
        ReplyDelivered, PresenceChanged, AuditEntry, DeadLetter, ApprovalAnswered, ServiceAlarm,
    )
}
