"""The tools that an agent asks of the host. Who asks is what the grant says, never what the arguments say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusTimeout, NoResponder, Refused
from microclaw.core.approvals import Action, needs_yes_to_write
from microclaw.core.destructive import SCRATCH, why_destructive
from microclaw.core.groups import missing_fields
from microclaw.core.ids import derived_id, id_text, id_time
from microclaw.core.kinds import Attachment, AuditEntry, ReplyRequested, RunGranted
from microclaw.core.memory_changes import Source, source
from microclaw.core.policy import Denied, may, visible_chats, visible_tasks
from microclaw.core.prompt import iso_utc
from microclaw.core.requests import (
    ApprovalRuling,
    AskApproval,
    AwaitAnswer,
    ChangeTask,
    CreateTask,
    Done,
    Failed,
    FoundMessages,
    Group,
    GroupAnswer,
    Groups,
    GroupsAsked,
    RegisterGroup,
    Request,
    SearchMessages,
    TaskAnswer,
    Tasks,
    TasksAsked,
)
from microclaw.core.settings import Approvals
from microclaw.core.tasks import context_of
from microclaw.core.text import strip_internal, visible
from microclaw.core.turns import REPLY_BYTES_MAX, cause_of
from microclaw.core.worker import ALLOW_COMMAND, SAYING_TOOLS, ToolCall, ToolReply
from microclaw.sandbox.attachments import take_from
from microclaw.sandbox.host_tool_args import (
    ARGS,
    AskArgs,
    ChangeArgs,
    CommandArgs,
    FileArgs,
    ListArgs,
    RegisterArgs,
    ScheduleArgs,
    SearchArgs,
    SendArgs,
    UpdateArgs,
)
from microclaw.sandbox.memory import Memory
from microclaw.sandbox.reading import FileRefused
from microclaw.sandbox.store import Notes

#: How long another service is waited for in one call, and one question to it.
ASK_WAIT_S = 30.0
ASK_S = 5.0
ASK_AGAIN_S = 0.2
#: Rows of one list, and the characters shown of a task's prompt.
ROWS_MAX = 100
PROMPT_CHARS_SHOWN = 300

#: What an agent can do instead of waiting for a yes.
ALTERNATIVE = f"What lies below {SCRATCH} may be deleted without a yes, if the command says the whole path."

Answer = TypeVar("Answer", TaskAnswer, Tasks, Groups, GroupAnswer, ApprovalRuling, FoundMessages, Done)

log = logging.getLogger("microclaw.sandbox")


class ToolRefused(Exception):
    """The call can't be met; the text is for the model, and says what to do instead."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A run, and the worker that does it."""

    grant: RunGranted
    grant_id: bytes
    worker_id: str

    def id_for(self, call_id: str, what: str) -> bytes:
        """The id of what a call causes: the same, however often the call is made."""
        return derived_id(id_time(self.grant_id), self.grant.run_id, call_id, what)

    def id_in_answer(self, what: str, *content: str) -> bytes:
        """The id of something made in answer to these messages: the same in every try, for a run that failed after it
        is tried again under another name. So one thing is made once, however often it is asked for."""
        return derived_id(0, cause_of(self.grant), what, *content)


class HostTools:
    """Carries out calls.

    :param clock_ms: Unix milliseconds.
    :param groups: where the groups' folders are.
    :param policy: what needs the owner's yes.
    """

    def __init__(
        self, bus: Bus, notes: Notes, memory: Memory, clock_ms: Callable[[], int], *, groups: Path,
        policy: Approvals = Approvals(),  # noqa: B008
    ) -> None:
        self._bus = bus
        self._groups_folder = groups
        self._policy = policy
        self._notes = notes
        self._memory = memory
        self._clock_ms = clock_ms
        self._tools: dict[str, Callable[[Caller, str, Any], Awaitable[str]]] = {
            "send_message": self._send_message,
            "send_file": self._send_file,
            "ask_user": self._ask_user,
            "schedule_task": self._schedule_task,
            "list_tasks": self._list_tasks,
            "pause_task": lambda who, call_id, args: self._change_task(who, call_id, "pause", args),
            "resume_task": lambda who, call_id, args: self._change_task(who, call_id, "resume", args),
            "cancel_task": lambda who, call_id, args: self._change_task(who, call_id, "cancel", args),
            "update_task": self._update_task,
            "register_group": self._register_group,
            "list_groups": self._list_groups,
            "search_messages": self._search_messages,
            ALLOW_COMMAND: self._allow_command,
        }

    async def call(self, who: Caller, call: ToolCall) -> ToolReply:
        """Do it, or say why not. What a model can get wrong never raises."""
        try:
            text = await self._do(who, call)
            ok = True
        except ToolRefused as refusal:
            ok, text = False, f"error: {refusal}"
        log.info("host tool", extra={
            "worker": who.worker_id, "group": who.grant.group, "run_id": who.grant.run_id,
            "tool": call.name[:40], "call_id": call.call_id[:80], "ok": ok,
        })
        if call.name not in SAYING_TOOLS or not ok:
            try:
                await self._bus.publish(self._audit(who, call, "ok" if ok else "deny", "" if ok else text))
            except Refused as refused:
                log.error("the audit entry was refused", extra={"why": refused.why, "tool": call.name[:40]})
        return ToolReply(run_id=call.run_id, call_id=call.call_id, ok=ok, text=text)

    async def _do(self, who: Caller, call: ToolCall) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolRefused(f"{call.name[:60]!r} is not a tool of the host")
        if call.name == "register_group":
            # The original asks for these by name; so the refusal should say which are not there.
            self._allow(who, call.name)
            missing = missing_fields(call.args | {"chat": call.args.get("jid")})
            if missing:
                names = ", ".join("jid" if name == "chat" else name for name in missing)
                raise ToolRefused(f"register_group needs {names}")
        try:
            args = msgspec.convert(call.args, ARGS[call.name], strict=False)
        except msgspec.ValidationError as error:
            raise ToolRefused(f"wrong arguments: {error}") from error
        return await tool(who, call.call_id, args)

    # --- messages -----------------------------------------------------------------------------------------------

    async def _send_message(self, who: Caller, call_id: str, args: SendArgs) -> str:
        chat = args.chat or who.grant.chat
        known = await self._may_write_to(who, "send_message", chat)
        text = strip_internal(args.text)
        if not text:
            raise ToolRefused("there is nothing to send: the text is empty, or all of it is internal")
        if known is not None:
            await self._owners_yes(who, call_id, "message", chat, known, text)
        return await self._say(who, call_id, "send_message", chat, text)

    async def _send_file(self, who: Caller, call_id: str, args: FileArgs) -> str:
        chat = args.chat or who.grant.chat
        known = await self._may_write_to(who, "send_file", chat)
        text = strip_internal(args.text)
        try:
            file = await take_from(self._bus, self._groups_folder / who.grant.group, args.path)
        except FileRefused as refusal:
            raise ToolRefused(str(refusal)) from refusal
        if known is not None:
            detail = f"{text}\n[file {file.name}, {file.size_bytes} bytes, {file.handle}]".strip()
            await self._owners_yes(who, call_id, "message", chat, known, detail)
        return await self._say(who, call_id, "send_file", chat, text, (file,))

    async def _ask_user(self, who: Caller, call_id: str, args: AskArgs) -> str:
        grant = who.grant
        self._allow(who, "ask_user", grant.group)
        lines = [args.question, *(f"{number}. {choice}" for number, choice in enumerate(args.choices, 1))]
        text = strip_internal("\n".join(lines))
        if not text:
            raise ToolRefused("there is nothing to ask: the question is empty")
        # Before it can be answered.
        await self._ask("router", AwaitAnswer(
            command_id=id_text(who.id_for(call_id, "await")), chat=grant.chat, group=grant.group,
        ), Done)
        await self._say(who, call_id, "ask_user", grant.chat, text)
        return "Asked. End your turn now; the answer comes with the next message of this chat."

    async def _say(
        self, who: Caller, call_id: str, tool: str, chat: str, text: str, files: tuple[Attachment, ...] = ()
    ) -> str:
        if len(text.encode("utf-8", "replace")) > REPLY_BYTES_MAX:
            raise ToolRefused(f"the message is longer than {REPLY_BYTES_MAX} bytes; send it in parts")
        reply = Draft(
            chat, ReplyRequested(chat=chat, text=text, origin="message", run_id=who.grant.run_id, attachments=files),
            message_id=who.id_for(call_id, tool), ts_ms=id_time(who.grant_id),
            blobs=tuple(file.handle for file in files),
        )
        # Before it can be seen: a run that is killed right after the publish must not be tried from the start.
        self._notes.visible(who.grant.run_id, self._clock_ms())
        call = ToolCall(run_id=who.grant.run_id, call_id=call_id, name=tool, args={})
        try:
            await self._bus.publish(reply, self._audit(who, call, "ok", chat))
        except Refused as refused:
            if refused.code != "id_conflict":
                raise ToolRefused(f"the message could not be sent: {refused.why}") from refused
            # The same call with other words: what was said first counts.
            return "This message was already sent."
        return "Message sent."

    async def _may_write_to(self, who: Caller, tool: str, chat: str) -> Groups | None:
        """The chats that are known, where it is another than the run's own."""
        if chat == who.grant.chat:
            self._allow(who, tool, who.grant.group)
            return None
        if not who.grant.is_main:
            # Always refused; so whether that chat exists stays unsaid.
            self._allow(who, tool, None)
        known = await self._groups(who)
        if chat not in {group.chat for group in known.groups} | {row.chat for row in known.chats}:
            raise ToolRefused(f"no chat {chat[:80]!r} is known; list_groups shows those that are")
        self._allow(who, tool, None)
        return known

    async def _owners_yes(
        self, who: Caller, call_id: str, kind: Literal["message", "task"], chat: str, known: Groups, detail: str,
    ) -> None:
        """Go on if this is no first contact, or the owner said yes to exactly this. Raises ToolRefused."""
        if not self._policy.new_recipients:
            return
        is_heard = any(row.chat == chat and row.is_heard for row in known.chats)
        if not needs_yes_to_write(chat, who.grant.chat, is_heard=is_heard):
            return
        ruling = await self._ask("egress", AskApproval(
            action=Action(kind=kind, group=who.grant.group, target=chat, detail=detail),
            use_id=id_text(who.id_for(call_id, f"approval {kind}")),
        ), ApprovalRuling)
        if not ruling.allowed:
            raise ToolRefused(f"nobody who may speak ever wrote in {chat}: {ruling.reason}")

    # --- commands -----------------------------------------------------------------------------------------------

    async def _allow_command(self, who: Caller, call_id: str, args: CommandArgs) -> str:
        """May exactly this run? The agent asks before it runs what destroys something; we look at it again."""
        why = why_destructive(args.command)
        if why and self._policy.destructive == "deny":
            raise ToolRefused(f"not run: {why}, and the owner lets no such command run. {ALTERNATIVE}")
        if why and self._policy.destructive == "ask":
            ruling = await self._ask("egress", AskApproval(
                action=Action(kind="command", group=who.grant.group, target=why, detail=args.command),
                use_id=id_text(who.id_for(call_id, "approval command")),
            ), ApprovalRuling)
            if not ruling.allowed:
                raise ToolRefused(f"not run: {why}; {ruling.reason}. {ALTERNATIVE}")
        return "It may run."

    # --- tasks --------------------------------------------------------------------------------------------------

    async def _schedule_task(self, who: Caller, call_id: str, args: ScheduleArgs) -> str:
        grant = who.grant
        chat, group, is_main = grant.chat, grant.group, grant.is_main
        if args.target_group_jid and args.target_group_jid != grant.chat:
            if not grant.is_main:
                # Whether that chat is a group is nothing that this one may learn.
                raise ToolRefused("schedule_task: this group may schedule for itself only")
            target = await self._group_of(who, args.target_group_jid)
            self._allow(who, "schedule_task", target.folder if target else None)
            if target is not None:
                chat, group, is_main = target.chat, target.folder, target.is_main
                await self._owners_yes(
                    who, call_id, "task", chat, await self._groups(who),
                    "\n".join(filter(None, (
                        f"{args.schedule_type} {args.schedule_value}", args.prompt, args.script,
                    ))),
                )
        else:
            self._allow(who, "schedule_task", group)
        context = context_of(args.context_mode)
        command_id = who.id_in_answer(
            "schedule_task", group, args.prompt, args.schedule_type, args.schedule_value, context,
            args.script,
        )
        created = await self._ask("scheduler", CreateTask(
            command_id=id_text(command_id), group=group, chat=chat, is_main=is_main,
            prompt=args.prompt, schedule=args.schedule_type, value=args.schedule_value, context=context,
            script=args.script,
        ), TaskAnswer)
        task = created.task
        await self._memory.made_task(grant, task.id)
        return f"Task {task.id} is scheduled ({task.schedule} {task.value}, {task.timezone})."

    async def _change_task(
        self, who: Caller, call_id: str, action: Literal["pause", "resume", "cancel"], args: ChangeArgs
    ) -> str:
        task = (await self._ask("scheduler", ChangeTask(
            command_id=id_text(who.id_for(call_id, f"{action}_task")), task_id=args.task_id, action=action,
            viewer=who.grant.group, viewer_is_main=who.grant.is_main,
        ), TaskAnswer)).task
        done = {"pause": "paused", "resume": "active again", "cancel": "cancelled"}
        return f"Task {task.id} is {done[action]}."

    async def _update_task(self, who: Caller, call_id: str, args: UpdateArgs) -> str:
        if args.prompt is args.schedule_type is args.schedule_value is args.script is None:
            raise ToolRefused("nothing to change: give prompt, schedule_type, schedule_value or script")
        task = (await self._ask("scheduler", ChangeTask(
            command_id=id_text(who.id_for(call_id, "update_task")), task_id=args.task_id, action="update",
            viewer=who.grant.group, viewer_is_main=who.grant.is_main,
            prompt=args.prompt, schedule=args.schedule_type, value=args.schedule_value, script=args.script,
        ), TaskAnswer)).task
        await self._memory.made_task(who.grant, task.id)
        return f"Task {task.id} is changed ({task.schedule} {task.value}, {task.timezone})."

    async def _list_tasks(self, who: Caller, _call_id: str, _args: ListArgs) -> str:
        self._allow(who, "list_tasks")
        grant = who.grant
        self._brought(who, source("tool:list_tasks"))
        answer = await self._ask(
            "scheduler", TasksAsked(viewer=grant.group, viewer_is_main=grant.is_main), Tasks
        )
        rows = visible_tasks(answer.tasks, grant.group, grant.is_main)[:ROWS_MAX]
        return msgspec.json.encode([
            msgspec.structs.replace(
                row, prompt=_short(row.prompt), last_result=_short(row.last_result), script=_short(row.script),
            )
            for row in rows
        ]).decode()

    async def _search_messages(self, who: Caller, _call_id: str, args: SearchArgs) -> str:
        grant = who.grant
        # Which chats those are, and whether this one may see them, the router knows: it has the groups.
        found = await self._ask("router", SearchMessages(
            query=args.query, viewer=grant.group, viewer_is_main=grant.is_main, chat=args.chat, before=args.before,
            limit=args.limit,
        ), FoundMessages)
        self._brought(who, *(source(f"chat:{row.chat}") for row in found.rows))
        return _told(found)

    # --- groups -------------------------------------------------------------------------------------------------

    async def _register_group(self, who: Caller, call_id: str, args: RegisterArgs) -> str:
        group = (await self._ask("router", RegisterGroup(
            command_id=id_text(who.id_for(call_id, "register_group")), chat=args.jid, folder=args.folder,
            name=args.name, trigger=args.trigger, requires_trigger=args.requires_trigger,
        ), GroupAnswer)).group
        return f"{group.chat} is registered as group {group.folder!r}; messages there are answered from now on."

    async def _list_groups(self, who: Caller, _call_id: str, _args: ListArgs) -> str:
        self._allow(who, "list_groups")
        known = await self._groups(who)
        self._brought(who, source("tool:list_groups"))
        open_chats = visible_chats(known.chats, who.grant.is_main)
        direct = [chat for chat in known.chats if not chat.is_group]
        left_out = sum(max(0, len(rows) - ROWS_MAX) for rows in (known.groups, open_chats, direct))
        return msgspec.json.encode({
            "groups": known.groups[:ROWS_MAX], "chats": open_chats[:ROWS_MAX], "direct_chats": direct[:ROWS_MAX],
            **({"left_out": left_out} if left_out else {}),
        }).decode()

    async def _group_of(self, who: Caller, chat: str) -> Group | None:
        return next((group for group in (await self._groups(who)).groups if group.chat == chat), None)

    async def _groups(self, who: Caller) -> Groups:
        self._allow(who, "list_groups")
        return await self._ask("router", GroupsAsked(), Groups)

    # --- inside -------------------------------------------------------------------------------------------------

    def _brought(self, who: Caller, *sources: Source) -> None:
        """What is told next was written by others: it counts when the agent writes to its memory."""
        self._memory.brought(who.grant, who.worker_id, sources)

    def _allow(self, who: Caller, tool: str, target: str | None = None) -> None:
        verdict = may(tool, who.grant.group, who.grant.is_main, target=target)
        if isinstance(verdict, Denied):
            raise ToolRefused(verdict.reason)

    async def _ask(self, service: str, question: Request, answer: type[Answer]) -> Answer:
        """Ask until it is answered; the question's `command_id` makes asking twice the same as once."""
        try:
            async with asyncio.timeout(ASK_WAIT_S):
                while True:
                    try:
                        said = await self._bus.request(
                            service, question, cast("type[Answer | Failed]", answer | Failed), timeout_s=ASK_S
                        )
                        break
                    except (NoResponder, BusTimeout):
                        await asyncio.sleep(ASK_AGAIN_S)
        except TimeoutError:
            raise ToolRefused(f"the {service} does not answer at present; try again later") from None
        if isinstance(said, Failed):
            raise ToolRefused(said.reason)
        return said

    def _audit(self, who: Caller, call: ToolCall, outcome: str, detail: str) -> Draft:
        entry = AuditEntry(
            actor=f"worker:{who.worker_id}@{who.grant.group}", action=f"tool.{call.name}"[:60],
            subject=f"{who.grant.run_id} {call.call_id[:80]}", outcome=outcome, detail=detail[:300],
        )
        return Draft(
            "service:sandbox", entry,
            # Another worker that does the call again is another line in the log, not another body under one id.
            message_id=who.id_for(call.call_id, f"audit {who.worker_id} {call.name} {outcome} {detail}"),
            ts_ms=id_time(who.grant_id),
        )


def _told(found: FoundMessages) -> str:
    """With what was searched, so that nothing found is never mistaken for nothing looked at."""
    return msgspec.json.encode({
        "messages": [
            {
                "chat": row.chat, "sender": visible(row.sender_name), "time": iso_utc(row.sent_ms),
                "text": visible(row.text), **({"own": True} if row.is_own else {}),
            }
            for row in found.rows
        ],
        "more_before": found.more_before,
        "searched": f"{found.searched} messages" + (f" up to {iso_utc(found.newest_ms)}" if found.searched else ""),
    }).decode()


def _short(text: str) -> str:
    return text if len(text) <= PROMPT_CHARS_SHOWN else text[: PROMPT_CHARS_SHOWN - 1] + "…"
