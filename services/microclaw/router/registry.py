"""The registered groups and their folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from microclaw.core.container import Container
from microclaw.core.errors import UsageError
from microclaw.core.groups import (
    MAIN_FOLDER,
    Registration,
    Rejected,
    decide_registration,
    folder_key,
    is_chat,
    is_conversation,
)
from microclaw.core.requests import Failed, Group, GroupAnswer, Groups, GroupsAsked, KnownChat, RegisterGroup
from microclaw.router import commands
from microclaw.router.tables import chats, groups

#: Who may register: the sandbox for a main group's agent (it checks that), the command line for the owner.
REGISTRARS = ("sandbox", "cli")

_STARTER = """# {title}

This folder is yours: what you write here you will find again next time.
Keep in this file what you should know in every conversation: who the people are, what they like, what was
agreed. Details go into files of their own; list them here.
"""
_STARTER_GLOBAL = """# For every group

What stands here every group's agent reads. Only the owner and the main group change it.
"""


class Registry:
    """Reader and only writer of the registered groups."""

    def __init__(self, engine: Engine, folder: Path, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._folder = folder
        self._clock_ms = clock_ms
        #: What the table holds, by chat: this process is its only writer, and every message asks.
        self._by_chat: dict[str, Group] = {}
        self._load()

    def of_chat(self, chat: str) -> Group | None:
        """The group that this chat is registered as."""
        return self._by_chat.get(chat)

    def all(self) -> list[Group]:
        """Every registered group: main first, then by folder."""
        return sorted(self._by_chat.values(), key=lambda group: (not group.is_main, folder_key(group.folder)))

    def facts(self) -> dict[str, int]:
        """For `status --deep`."""
        with self._engine.begin() as db:
            return {
                "groups": len(self._by_chat),
                "chats": db.execute(select(func.count()).select_from(chats)).scalar_one(),
            }

    async def on_list(self, _question: GroupsAsked, _asker: str) -> Groups:
        """Answer `groups.list`."""
        with self._engine.begin() as db:
            rows = db.execute(select(chats).order_by(chats.c.last_message_ms.desc(), chats.c.chat)).all()
        return Groups(groups=tuple(self.all()), chats=tuple(
            KnownChat(
                chat=row.chat, name=row.name, last_message_ms=row.last_message_ms, is_group=row.is_group,
                registered=row.chat in self._by_chat,
            )
            for row in rows if is_conversation(row.chat)
        ))

    async def on_register(self, wanted: RegisterGroup, asker: str) -> GroupAnswer | Failed:
        """Answer `groups.register`."""
        if asker not in REGISTRARS:
            return Failed(
                reason=f"{asker} may not register groups: use `microclaw groups add`", code="denied"
            )
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        with self._engine.begin() as db:
            answer = commands.answered(db, wanted.command_id, GroupAnswer)
            if answer is not None:
                return answer
            registration = Registration(
                wanted.chat, wanted.folder, wanted.name, wanted.trigger, wanted.requires_trigger,
                # An agent may not give folders of the host, nor itself more time.
                wanted.container if asker == "cli" else None,
            )
            decided = self._decide(registration)
            if isinstance(decided, Rejected):
                return Failed(reason=decided.reason, code="conflict" if decided.conflict else "bad_request")
            self._write(db, decided)
            answer = GroupAnswer(group=decided)
            commands.remember(db, wanted.command_id, answer, now_ms=self._clock_ms())
        self._load()
        return answer

    def ensure_main(self, chat: str) -> str:
        """Register `chat` as the main group if there is none yet. Returns what to tell the owner, or "".

        :raises UsageError: `console.chat` is not a console chat's address.
        """
        if not is_chat(chat) or not chat.startswith("console:"):
            raise UsageError(f"console.chat is {chat!r}: write it as console:NAME, for example console:main")
        main = next((group for group in self.all() if group.is_main), None)
        if main is not None:
            if self.of_chat(chat) is not None:
                return ""
            return (
                f"console.chat is {chat}, which is not registered: {main.chat} is the main group; "
                f"register it with `microclaw groups add {chat} FOLDER`"
            )
        decided = self._decide(Registration(chat, MAIN_FOLDER, "Main", requires_trigger=False))
        if isinstance(decided, Rejected):
            return f"the main group can't be registered: {decided.reason}"
        with self._engine.begin() as db:
            self._write(db, decided, is_main=True)
        self._load()
        return ""

    def make_folders(self) -> None:
        """Make what is missing of the groups' folders and of the shared memory."""
        make_folder(self._folder / "global", _STARTER_GLOBAL)
        for group in self.all():
            self._make_folder(group)

    def _load(self) -> None:
        with self._engine.begin() as db:
            self._by_chat = {row.chat: _group(row) for row in db.execute(select(groups))}

    def _decide(self, wanted: Registration) -> Group | Rejected:
        return decide_registration(wanted, self.all(), now_ms=self._clock_ms())

    def _write(self, db: Connection, group: Group, *, is_main: bool = False) -> None:
        # The folder first: a registered group always has one, and a folder too many does no harm.
        self._make_folder(group)
        row = {
            "folder": group.folder, "folder_key": folder_key(group.folder), "name": group.name,
            "trigger": group.trigger, "requires_trigger": group.requires_trigger,
            "is_main": group.is_main or is_main, "added_ms": group.added_ms,
            "container": msgspec.json.encode(group.container).decode(),
        }
        if not db.execute(update(groups).where(groups.c.chat == group.chat), row).rowcount:
            db.execute(insert(groups), row | {"chat": group.chat})
        if db.execute(select(chats.c.chat).where(chats.c.chat == group.chat)).first() is None:
            db.execute(insert(chats), {
                "chat": group.chat, "name": group.name, "last_message_ms": 0, "is_group": False,
            })

    def _make_folder(self, group: Group) -> None:
        folder = self._folder / group.folder
        make_folder(folder, _STARTER.format(title=group.name))
        (folder / "logs").mkdir(mode=0o700, exist_ok=True)


def make_folder(folder: Path, starter: str) -> None:
    """Make a memory folder, private to the user, with a first CLAUDE.md unless it has one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # The folder is an agent's to write in: nothing there is followed or overwritten.
        file = os.open(folder / "CLAUDE.md", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return
    with os.fdopen(file, "w", encoding="utf-8") as text:
        text.write(starter)


def _group(row: Row[tuple[object, ...]]) -> Group:
    return Group(
        chat=row.chat, folder=row.folder, name=row.name, trigger=row.trigger,
        requires_trigger=row.requires_trigger, is_main=row.is_main, added_ms=row.added_ms,
        container=msgspec.json.decode(row.container, type=Container),
    )
