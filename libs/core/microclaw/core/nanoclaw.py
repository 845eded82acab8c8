"""What NanoClaw, from which people come to us, wrote down: read strictly, and what is damaged is told, not guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from microclaw.core.container import Container
from microclaw.core.groups import MAIN_FOLDER, is_chat, is_folder
from microclaw.core.mounts import Wanted
from microclaw.core.requests import CreateTask, RegisterGroup
from microclaw.core.tasks import SCRIPT_CHARS_MAX, context_of

#: The names of its `.env` that it handed to agents; every other line was its own.
SECRET_NAMES = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")


def read_cursors(raw: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Until when each chat's agent had read (`router_state.last_agent_timestamp`), and what the owner must be told.

    A damaged text counts as none: rather read a message twice than never.
    """
    if not raw:
        return {}, ()
    try:
        return msgspec.json.decode(raw, type=dict[str, str]), ()
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return {}, (f"how far the agents had read can't be told ({error}); messages of before may be read again",)


def secrets_in(env_file: str) -> dict[str, str]:
    """The secrets of its `.env` that its agents were given, by name."""
    found: dict[str, str] = {}
    for line in env_file.splitlines():
        name, is_set, value = line.strip().partition("=")
        if is_set and name in SECRET_NAMES and value.strip():
            found[name] = value.strip().strip("\"'")
    return found


def container_of(config: Mapping[str, Any]) -> Container:
    """A group's `container_config` as ours.

    :raises msgspec.ValidationError: it is not one.
    """
    mounts = msgspec.convert(config.get("additionalMounts") or [], list[dict[str, Any]])
    return Container(
        timeout_ms=msgspec.convert(config.get("timeout") or 0, int),
        # Only a plain `false` asks for more there; whatever else it holds, the mount is read-only.
        mounts=msgspec.convert(
            [mount | {"readonly": mount.get("readonly") is not False} for mount in mounts], tuple[Wanted, ...]
        ),
    )


# --- the plan of a move ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TheirGroup:
    """A row of `registered_groups`."""

    jid: str
    name: str
    folder: str
    trigger: str = ""
    requires_trigger: bool = True
    container_config: str = ""


@dataclass(frozen=True, slots=True)
class TheirTask:
    """A row of `scheduled_tasks`."""

    id: str
    folder: str
    jid: str
    prompt: str
    schedule: str
    value: str
    context: str | None = None
    status: str = "active"
    #: Later versions have one; it decides as ours do.
    script: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """What will be done, and what will not and why (one line each)."""

    groups: tuple[RegisterGroup, ...]
    #: Their folder → ours.
    folders: Mapping[str, str]
    tasks: tuple[CreateTask, ...]
    #: Command ids of tasks that are to be paused.
    paused: frozenset[str]
    left_out: tuple[str, ...]


def chat_of(jid: str) -> str:
    """Our address of their chat: other channels than WhatsApp stand before a colon there."""
    prefix, colon, rest = jid.partition(":")
    channel = {"tg": "telegram", "dc": "discord"}.get(prefix)
    if colon and channel:
        return f"{channel}:{rest}"
    return jid if colon and is_chat(jid) else f"whatsapp:{jid}"


def plan_move(
    groups: Iterable[TheirGroup], tasks: Iterable[TheirTask], *, taken: Mapping[str, str], now_ms: int, zone: ZoneInfo
) -> Move:
    """What their groups and tasks become.

    :param taken: our folders and the chats that have them. Where another chat has the folder, `-nanoclaw` is added.
    """
    left_out: list[str] = []
    registrations: list[RegisterGroup] = []
    folders: dict[str, str] = {}
    for group in groups:
        folder, chat = group.folder, chat_of(group.jid)
        is_main = folder == MAIN_FOLDER
        if taken.get(folder, chat) != chat:
            folder = f"{folder}-nanoclaw"
        if not is_folder(folder) or not is_chat(chat):
            left_out.append(f"group {group.folder!r} of {group.jid!r}: such a name can't be a folder or a chat here")
            continue
        try:
            container = container_of(msgspec.json.decode(group.container_config, type=dict[str, Any])
                                     if group.container_config else {})
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            container = Container()
            left_out.append(f"container settings of group {group.folder}: they can't be read ({error})")
        folders[group.folder] = folder
        registrations.append(RegisterGroup(
            command_id=f"nanoclaw group {group.jid} {folder}", chat=chat, folder=folder, name=group.name or folder,
            trigger=group.trigger, requires_trigger=group.requires_trigger and not is_main, container=container,
        ))
    made: list[CreateTask] = []
    paused: set[str] = set()
    for task in tasks:
        why = _unfit(task, folders, now_ms, zone)
        if why:
            left_out.append(f"task {task.id}: {why}")
            continue
        command_id = f"nanoclaw task {task.id}"
        made.append(CreateTask(
            command_id=command_id, group=folders[task.folder], chat=chat_of(task.jid), prompt=task.prompt,
            schedule=task.schedule, value=task.value, context=context_of(task.context),
            script=task.script,
        ))
        if task.status == "paused":
            paused.add(command_id)
    return Move(tuple(registrations), folders, tuple(made), frozenset(paused), tuple(left_out))


def _unfit(task: TheirTask, folders: Mapping[str, str], now_ms: int, zone: ZoneInfo) -> str:
    """Why a task is not taken over; "" = it is."""
    from microclaw.core.schedule import ScheduleError, first_run

    if task.status == "completed":
        return "it is completed"
    if len(task.script) > SCRIPT_CHARS_MAX:
        return f"its script is longer than {SCRIPT_CHARS_MAX} characters: put it into a file and call that"
    if task.folder not in folders:
        return f"its group {task.folder!r} is not registered"
    try:
        due_ms = first_run(task.schedule, task.value, zone, now_ms)
    except ScheduleError as error:
        return str(error)
    if task.status == "paused" and due_ms <= now_ms:
        return "it is paused and its time has passed"
    return ""
