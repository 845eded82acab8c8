"""The host tools' arguments as the host reads them: what comes out of a sandbox is checked again.

Fields that are not here (an agent's `isMain`, `groupFolder`, …) are not read at all.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from microclaw.core.groups import CHAT_CHARS_MAX
from microclaw.core.tasks import PROMPT_CHARS_MAX, SCRIPT_CHARS_MAX
from microclaw.core.worker import ALLOW_COMMAND

Chat = Annotated[str, Meta(max_length=CHAT_CHARS_MAX)]
Prompt = Annotated[str, Meta(min_length=1, max_length=PROMPT_CHARS_MAX)]
Script = Annotated[str, Meta(max_length=SCRIPT_CHARS_MAX)]
TaskId = Annotated[str, Meta(min_length=1, max_length=200)]
ScheduleType = Literal["cron", "interval", "once"]
ScheduleValue = Annotated[str, Meta(min_length=1, max_length=200)]


class SendArgs(msgspec.Struct, frozen=True):
    text: str
    chat: Chat = ""


class AskArgs(msgspec.Struct, frozen=True):
    question: str
    choices: Annotated[tuple[str, ...], Meta(max_length=10)] = ()


class FileArgs(msgspec.Struct, frozen=True):
    path: Annotated[str, Meta(min_length=1, max_length=1000)]
    text: str = ""
    chat: Chat = ""


class ScheduleArgs(msgspec.Struct, frozen=True):
    prompt: Prompt
    schedule_type: ScheduleType
    schedule_value: ScheduleValue
    #: `core.tasks.context_of` says what anything else than its two words means.
    context_mode: Any = None
    target_group_jid: Chat = ""
    script: Script = ""


class ChangeArgs(msgspec.Struct, frozen=True):
    task_id: TaskId


class UpdateArgs(msgspec.Struct, frozen=True):
    task_id: TaskId
    prompt: Prompt | None = None
    schedule_type: ScheduleType | None = None
    schedule_value: ScheduleValue | None = None
    script: Script | None = None


class RegisterArgs(msgspec.Struct, frozen=True):
    jid: Chat
    name: str
    folder: str
    trigger: str = ""
    requires_trigger: bool = True


class SearchArgs(msgspec.Struct, frozen=True):
    query: str
    chat: Chat = ""
    before: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1)] = 20


class CommandArgs(msgspec.Struct, frozen=True):
    command: str


class ListArgs(msgspec.Struct, frozen=True):
    pass


ARGS: dict[str, type[msgspec.Struct]] = {
    "send_message": SendArgs, "schedule_task": ScheduleArgs, "list_tasks": ListArgs,
    "pause_task": ChangeArgs, "resume_task": ChangeArgs, "cancel_task": ChangeArgs, "update_task": UpdateArgs,
    "register_group": RegisterArgs, "list_groups": ListArgs,
    "search_messages": SearchArgs, "send_file": FileArgs, "ask_user": AskArgs, ALLOW_COMMAND: CommandArgs,
}
