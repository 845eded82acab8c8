"""The registered groups and their folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

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
from microclaw.core.people import shown
from microclaw.core.people_requests import RemoveGroup
from microclaw.core.requests import Done, Failed, Group, GroupAnswer, Groups, GroupsAsked, KnownChat, RegisterGroup
from microclaw.router import commands
from microclaw.router.messages import is_heard
from microclaw.router.tables import chats, groups, joined, models
from microclaw.router.trail import Trail

#: Who may register: the sandbox for a main group's agent (it checks that), the command line for the owner.
REGISTRARS = ("sandbox", "cli")

#: Direct chats in one list, besides those that belong to us: the ones last heard of. Every stranger's mail begins one.
DIRECT_LISTED_MAX = 1_000
#: One that belongs to nobody of us and was silent for so long is forgotten, ms.
DIRECT_KEPT_MS = 365 * 24 * 3600 * 1000

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

    def __init__(
        self, engine: Engine, folder: Path, clock_ms: Callable[[], int], trail: Trail | None = None
    ) -> None:
        self._engine = engine
        #: Where the groups' folders are.
        self.groups_folder = folder
        self._clock_ms = clock_ms
        self._trail = trail or Trail()
        #: What the table holds, by chat: this process is its only writer, and every message asks.
        self._by_chat: dict[str, Group] = {}
        #: The same with the chats that joined.
        self._of_chat: dict[str, Group] = {}
        self.reload()

    def of_chat(self, chat: str) -> Group | None:
        """The group that this chat is registered as, or has joined; its `chat` is this one."""
        return self._of_chat.get(chat)

    def of_folder(self, folder: str) -> Group | None:
        """The group with this folder."""
        return next((group for group in self._by_chat.values() if group.folder == folder), None)

    def is_home(self, chat: str) -> bool:
        """Whether a group was registered with this chat (it did not join one)."""
        return chat in self._by_chat

    def all(self) -> list[Group]:
        """Every registered group: main first, then by folder."""
        return sorted(self._by_chat.values(), key=lambda group: (not group.is_main, folder_key(group.folder)))

    def owner_chat(self, db: Connection, *, but_not: str = "") -> str:
        """Where the owner is told things: of the main group's chats the one last heard of, "" = there is none."""
        main = next((group for group in self._by_chat.values() if group.is_main), None)
        fit = [chat for chat in ((main.chat, *main.joined) if main else ()) if chat != but_not]
        rows = db.execute(select(chats.c.chat, chats.c.last_message_ms).where(chats.c.chat.in_(fit)))
        heard: dict[str, int] = {row.chat: row.last_message_ms for row in rows}
        return max(fit, key=lambda chat: heard.get(chat, 0), default="")

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
            newest_first = (chats.c.last_message_ms.desc(), chats.c.chat)
            lately = select(chats.c.chat).where(~chats.c.is_group).order_by(*newest_first).limit(DIRECT_LISTED_MAX)
            listed = chats.c.is_group | chats.c.chat.in_(lately) | chats.c.chat.in_(list(self._of_chat))
            rows = db.execute(select(chats).where(listed).order_by(*newest_first)).all()
            heard = {chat for chat in self._of_chat if is_heard(db, chat)}
            owner_chat = self.owner_chat(db)
        return Groups(groups=tuple(self.all()), owner_chat=owner_chat, chats=tuple(
            KnownChat(
                chat=row.chat, name=row.name, last_message_ms=row.last_message_ms, is_group=row.is_group,
                registered=row.chat in self._of_chat, is_heard=row.chat in heard,
            )
            for row in rows if is_conversation(row.chat)
        ))

    def tidy(self) -> None:
        """Drop direct chats of strangers that nobody wrote in for long."""
        silent = ~chats.c.is_group & (chats.c.last_message_ms < self._clock_ms() - DIRECT_KEPT_MS)
        with self._engine.begin() as db:
            db.execute(delete(chats).where(silent, chats.c.chat.not_in(list(self._of_chat))))

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
            # It may have been one of the direct chats of another group.
            db.execute(delete(joined).where(joined.c.chat == decided.chat))
            answer = GroupAnswer(group=decided)
            commands.remember(db, wanted.command_id, answer, now_ms=self._clock_ms())
            self._trail.note(db, wanted.command_id, asker, "group.register", f"{decided.chat} as {decided.folder}")
        self.reload()
        await self._trail.tell(wanted.command_id)
        return answer

    async def on_remove(self, wanted: RemoveGroup, asker: str) -> Done | Failed:
        """Answer `groups.rm`."""
        if asker != "cli":
            return Failed(reason=f"{asker} may not remove groups: use `microclaw groups rm`", code="denied")
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        with self._engine.begin() as db:
            if (before := commands.answered(db, wanted.command_id, Done)) is not None:
                return before
            group = self._by_chat.get(wanted.group) or self.of_folder(wanted.group)
            if group is None:
                return Failed(
                    reason=f"there is no group {wanted.group[:80]!r}; `microclaw groups list` shows them",
                    code="not_found",
                )
            if group.is_main:
                return Failed(reason="the main group stays: it is where the owner is told things", code="conflict")
            self.forget(db, group)
            commands.remember(db, wanted.command_id, Done(), now_ms=self._clock_ms())
            self._trail.note(db, wanted.command_id, asker, "group.remove", f"{group.chat} as {group.folder}")
        self.reload()
        await self._trail.tell(wanted.command_id)
        return Done()

    # --- within somebody's transaction; `reload` after it -------------------------------------------------------

    def open_chat(self, db: Connection, chat: str, folder: str, name: str) -> Group:
        """A direct chat of somebody who was let in belongs to this folder's group from now on, which is made if it is
        not there."""
        home = self.of_folder(folder)
        if home is None:
            wanted = Registration(chat, folder, shown(name) or folder, requires_trigger=False)
            decided = self._decide(wanted)
            if isinstance(decided, Rejected):
                raise UsageError(f"the chat {chat} can't be registered: {decided.reason}")
            self._write(db, decided)
            self._by_chat[chat] = decided
            return decided
        if chat != home.chat and db.execute(select(joined.c.chat).where(joined.c.chat == chat)).first() is None:
            db.execute(insert(joined), {"chat": chat, "folder": folder})
        return msgspec.structs.replace(home, chat=chat)

    def forget(self, db: Connection, group: Group) -> None:
        """No chat is this group's any more. The folder stays, and what was said."""
        db.execute(delete(groups).where(groups.c.chat == group.chat))
        db.execute(delete(joined).where(joined.c.folder == group.folder))
        db.execute(delete(models).where(models.c.folder == group.folder))

    def leave(self, db: Connection, chats_of_one: tuple[str, ...]) -> None:
        """These chats are no longer joined to any group."""
        db.execute(delete(joined).where(joined.c.chat.in_(chats_of_one)))

    def reload(self) -> None:
        """Read again what the tables hold."""
        with self._engine.begin() as db:
            others: defaultdict[str, list[str]] = defaultdict(list)
            for row in db.execute(select(joined).order_by(joined.c.chat)):
                others[row.folder].append(row.chat)
            self._by_chat = {
                row.chat: _group(row, tuple(others[row.folder])) for row in db.execute(select(groups))
            }
        self._of_chat = dict(self._by_chat)
        for group in self._by_chat.values():
            for chat in group.joined:
                self._of_chat.setdefault(chat, msgspec.structs.replace(group, chat=chat))

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
                f"register it with `microclaw groups add {chat}`"
            )
        decided = self._decide(Registration(chat, MAIN_FOLDER, "Main", requires_trigger=False))
        if isinstance(decided, Rejected):
            return f"the main group can't be registered: {decided.reason}"
        with self._engine.begin() as db:
            self._write(db, decided, is_main=True)
        self.reload()
        return ""

    def make_folders(self) -> None:
        """Make what is missing of the groups' folders and of the shared memory."""
        make_folder(self.groups_folder / "global", _STARTER_GLOBAL)
        for group in self.all():
            self._make_folder(group)

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
        folder = self.groups_folder / group.folder
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


def _group(row: Row[tuple[object, ...]], others: tuple[str, ...]) -> Group:
    return Group(
        chat=row.chat, folder=row.folder, name=row.name, trigger=row.trigger,
        requires_trigger=row.requires_trigger, is_main=row.is_main, added_ms=row.added_ms,
        container=msgspec.json.decode(row.container, type=Container), joined=others,
    )
