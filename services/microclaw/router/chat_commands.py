"""Carries out what the owner (or an admin, about the chat's own group) tells the house in a chat, without the agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar, cast

from sqlalchemy import Connection

from microclaw.bus.api import Bus, Draft
from microclaw.bus.errors import BusError
from microclaw.core.chat_commands import (
    NO_MODEL_TO_COMPACT_FOR,
    ChatCommand,
    Typed,
    compact_text,
    help_text,
    memory_text,
    status_text,
    stop_text,
    tasks_text,
    usage_text,
    whoami_text,
)
from microclaw.core.ids import derived_id, id_time
from microclaw.core.kinds import ControlRequested, MessageReceived, ReplyRequested
from microclaw.core.model_choice import chosen_text, model_text, problem_of
from microclaw.core.people import Role
from microclaw.core.requests import (
    Failed,
    Group,
    Request,
    Runs,
    RunsAsked,
    Tasks,
    TasksAsked,
    UsageAsked,
    UsageRows,
)
from microclaw.core.restarting import begin_text
from microclaw.core.settings import Model
from microclaw.router.memory import memory_of
from microclaw.router.models import Models
from microclaw.router.restarting import Restarting

#: How long another room may take for an answer to the owner.
ASK_S = 2.0
#: How far back `/usage` looks.
USAGE_DAYS = 7

Told = TypeVar("Told", Runs, Tasks, UsageRows)


def _nothing(_db: Connection) -> None:
    return


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command causes. `change` is made in the transaction that keeps the drafts."""

    drafts: list[Draft]
    change: Callable[[Connection], None] = _nothing


class ChatCommands:
    """Answers commands."""

    def __init__(
        self, bus: Bus, folders: Callable[[], set[str]], clock_ms: Callable[[], int], *, groups: Path, model: Model,
        models: Models, restarting: Restarting | None,
    ) -> None:
        self._bus = bus
        self._groups = groups
        self._model = model
        self._models = models
        self._restarting = restarting
        self._folders = folders
        self._clock_ms = clock_ms

    async def answer(
        self, typed: Typed, received: MessageReceived, group: Group, cause: bytes, role: Role | None
    ) -> Answer:
        """What the command causes: a word in its chat, for some a word to the sandbox, for some a change here."""
        if typed.command is ChatCommand.MODEL and typed.group:
            return self._choose(typed.group, received, group, cause, role)
        if typed.command is ChatCommand.RESTART:
            return await self._restart(received, group, cause, role)
        return Answer(await self._drafts(typed, received, group, cause, role))

    async def _drafts(
        self, typed: Typed, received: MessageReceived, group: Group, cause: bytes, role: Role | None
    ) -> list[Draft]:
        ts_ms = id_time(cause)
        meant = typed.group or group.folder
        if meant != group.folder and not (_sees_all(group, role) and meant in self._folders()):
            return [_said(received.chat, f"There is no group {meant!r} here: `microclaw groups list`.", cause)]
        drafts: list[Draft] = []
        if typed.command is ChatCommand.COMPACT and self._model.backend == "local":
            return [_said(received.chat, NO_MODEL_TO_COMPACT_FOR, cause)]
        if typed.command in (ChatCommand.STOP, ChatCommand.NEW, ChatCommand.COMPACT):
            action = cast(Literal["stop", "new", "compact"], typed.command.value)
            drafts.append(Draft(
                # Each action has a session of its own: a stop never waits behind what waits for the run's end.
                f"control:{action}:{meant}",
                ControlRequested(group=meant, action="uncompact" if typed.undo else action, chat=received.chat),
                # Our own clock: a stop is heeded only by what was granted before it.
                message_id=derived_id(self._clock_ms(), cause, "control"), ts_ms=ts_ms,
            ))
        text = await self._text(typed, received, group, meant, role)
        return [*drafts, _said(received.chat, text, cause)]

    async def _text(
        self, typed: Typed, received: MessageReceived, group: Group, meant: str, role: Role | None
    ) -> str:
        is_main, now = _sees_all(group, role), self._clock_ms()
        match typed.command:
            case ChatCommand.HELP:
                return help_text()
            case ChatCommand.WHOAMI:
                return whoami_text(
                    received.sender_name, received.chat, group.folder, is_main=group.is_main,
                    role=str(role or "owner"),
                )
            case ChatCommand.STATUS:
                return status_text(await self._ask("queue", RunsAsked(), Runs), meant, now, is_main=is_main)
            case ChatCommand.CRON:
                tasks = await self._ask(
                    "scheduler", TasksAsked(viewer=group.folder, viewer_is_main=is_main), Tasks
                )
                return tasks_text(tasks.tasks if tasks else None)
            case ChatCommand.USAGE:
                since = datetime.fromtimestamp(now / 1000, UTC) - timedelta(days=USAGE_DAYS)
                usage = await self._ask("egress", UsageAsked(since_day=since.strftime("%Y-%m-%d")), UsageRows)
                return usage_text(usage.rows if usage else None, meant, is_main=is_main)
            case ChatCommand.STOP:
                return stop_text(await self._ask("queue", RunsAsked(), Runs), meant)
            case ChatCommand.NEW:
                return "A new conversation begins. What was said before is put aside, and written to `conversations`."
            case ChatCommand.COMPACT:
                return compact_text(meant, undo=typed.undo)
            case ChatCommand.MODEL:
                return model_text(self._model, meant, self._models.chosen(meant))
            case ChatCommand.MEMORY:
                return memory_text(meant, *memory_of(self._groups, meant, is_main=group.is_main))
        raise AssertionError(f"{typed.command} is read elsewhere")

    def _choose(
        self, wanted: str, received: MessageReceived, group: Group, cause: bytes, role: Role | None
    ) -> Answer:
        if not _sees_all(group, role):
            return Answer([_said(received.chat, "Which model thinks is my owner's to say, in the main chat.", cause)])
        if problem := problem_of(self._model, wanted):
            return Answer([_said(received.chat, problem, cause)])
        text = chosen_text(self._model, group.folder, wanted)
        return Answer(
            [_said(received.chat, text, cause)], lambda db: self._models.choose(db, group.folder, wanted)
        )

    async def _restart(
        self, received: MessageReceived, group: Group, cause: bytes, role: Role | None
    ) -> Answer:
        restarting = self._restarting
        if not _sees_all(group, role) or restarting is None:
            return Answer([_said(received.chat, "A restart is my owner's to ask for, in the main chat.", cause)])
        if problem := await restarting.problem():
            return Answer([_said(received.chat, problem, cause)])
        return Answer(
            [_said(received.chat, begin_text(), cause)], lambda db: restarting.want(db, cause, received.chat)
        )

    async def _ask(self, service: str, question: Request, answer: type[Told]) -> Told | None:
        """Its answer; None = it has none at present."""
        try:
            said = await self._bus.request(
                service, question, cast("type[Told | Failed]", answer | Failed), timeout_s=ASK_S
            )
        except BusError:
            return None
        return None if isinstance(said, Failed) else said


def _sees_all(group: Group, role: Role | None) -> bool:
    return group.is_main and role is Role.OWNER


def _said(chat: str, text: str, cause: bytes) -> Draft:
    ts_ms = id_time(cause)
    return Draft(
        chat, ReplyRequested(chat=chat, text=text, origin="notice"), message_id=derived_id(ts_ms, cause, "command"),
        ts_ms=ts_ms,
    )
