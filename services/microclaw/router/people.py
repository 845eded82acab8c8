"""The people we know: roles and senders, as the table holds them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert, select, update

from microclaw.core import people as core
from microclaw.core.kinds import MessageReceived
from microclaw.core.people import Rejected, Role, User, Wanted
from microclaw.core.people_requests import ChangeUser, UserAnswer, Users, UsersAsked
from microclaw.core.requests import Failed, Group
from microclaw.router import commands
from microclaw.router.registry import Registry
from microclaw.router.tables import chats, pairings, senders, users
from microclaw.router.trail import Trail


class People:
    """Reader and only writer of the users."""

    def __init__(
        self, engine: Engine, registry: Registry, clock_ms: Callable[[], int], trail: Trail | None = None
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._clock_ms = clock_ms
        self._trail = trail or Trail()
        self._by_sender: dict[str, User] = {}
        self._all: list[User] = []
        self.reload()

    def all(self) -> list[User]:
        """Everybody, owners first."""
        return self._all

    def of(self, received: MessageReceived) -> User | None:
        """The user who wrote it, if it is one and its platform vouches for that."""
        return self._by_sender.get(core.sender_of(received)) if received.is_sender_proven else None

    def role(self, received: MessageReceived, group: Group | None) -> Role | None:
        """What the writer may; None = nobody we know."""
        return core.standing(received, self.of(received), group, is_home=self._registry.is_home(received.chat))

    def is_personal(self, group: Group | None) -> bool:
        """Whether the group belongs to people that were let in."""
        return group is not None and any(user.folder == group.folder for user in self._all)

    async def on_list(self, _question: UsersAsked, _asker: str) -> Users:
        """Answer `users.list`."""
        return Users(users=tuple(self._all))

    async def on_change(self, wanted: ChangeUser, asker: str) -> UserAnswer | Failed:
        """Answer `users.change`."""
        if asker != "cli":
            return Failed(reason=f"{asker} may not change users: use `microclaw users`", code="denied")
        if not commands.is_command_id(wanted.command_id):
            return Failed(reason="command_id must have 1 to 200 characters")
        with self._engine.begin() as db:
            if (before := commands.answered(db, wanted.command_id, UserAnswer)) is not None:
                return before
            changed = self._change(db, wanted)
            if isinstance(changed, Failed):
                return changed
            answer = UserAnswer(user=changed)
            commands.remember(db, wanted.command_id, answer, now_ms=self._clock_ms())
            subject = f"{changed.name} ({changed.role}) {wanted.sender}".strip()
            self._trail.note(db, wanted.command_id, asker, f"user.{wanted.action}", subject)
        self._registry.reload()
        self.reload()
        await self._trail.tell(wanted.command_id)
        return answer

    # --- within somebody's transaction; `reload` after it -------------------------------------------------------

    def admit(self, db: Connection, wanted: Wanted) -> User | Rejected:
        """Let a sender in."""
        user = core.admit(wanted, self._all, self._registry.all(), now_ms=self._clock_ms())
        if isinstance(user, User):
            if not any(each.name == user.name for each in self._all):
                db.execute(insert(users), {
                    "name": user.name, "role": user.role.value, "folder": user.folder, "added_ms": user.added_ms,
                })
            db.execute(insert(senders), {"sender": wanted.sender, "user": user.name})
        return user

    def forget(self, db: Connection, user: User, forgotten: tuple[str, ...]) -> None:
        """These senders of the user are strangers again. Nobody may be left in a chat of theirs who is let in by that
        chat alone: it leaves the group, and a group that was only theirs is none any more."""
        db.execute(delete(senders).where(senders.c.sender.in_(forgotten)))
        channels = tuple(sender.partition(":")[0] for sender in forgotten)
        was_in = db.execute(select(pairings.c.chat).where(pairings.c.sender.in_(forgotten))).scalars().all()
        left = [sender for sender in user.senders if sender not in forgotten]
        home = self._registry.of_folder(user.folder)
        others = [each for each in self._all if each.folder == user.folder and each.name != user.name]
        if not left:
            db.execute(delete(users).where(users.c.name == user.name))
        if home is None:
            return
        is_direct = not db.execute(select(chats.c.is_group).where(chats.c.chat == home.chat)).scalar()
        if is_direct and not (left or others or home.is_main):
            self._registry.forget(db, home)
            return
        # Which of the joined chats were theirs is known of the channel alone: whoever still is let in joins again
        # with the next message.
        same_channel = tuple(chat for chat in home.joined if chat.partition(":")[0] in channels)
        self._registry.leave(db, (*same_channel, *was_in))

    def reload(self) -> None:
        """Read again what the tables hold."""
        with self._engine.begin() as db:
            ids: dict[str, list[str]] = {}
            for row in db.execute(select(senders).order_by(senders.c.sender)):
                ids.setdefault(row.user, []).append(row.sender)
            found = [
                User(
                    name=row.name, role=Role(row.role), folder=row.folder, senders=tuple(ids.get(row.name, ())),
                    added_ms=row.added_ms,
                )
                for row in db.execute(select(users).order_by(users.c.added_ms, users.c.name))
            ]
        self._all = sorted(found, key=lambda user: list(Role).index(user.role))
        self._by_sender = {sender: user for user in found for sender in user.senders}

    def _change(self, db: Connection, wanted: ChangeUser) -> User | Failed:
        user = next((each for each in self._all if each.name == wanted.name), None)
        if wanted.action == "add":
            sender = wanted.sender.casefold() if wanted.sender.startswith("email:") else wanted.sender
            added = self.admit(db, Wanted(
                sender=sender, shown_name=wanted.name, role=wanted.role, user=wanted.name, folder=wanted.folder,
            ))
            return Failed(reason=added.reason) if isinstance(added, Rejected) else added
        if user is None:
            return Failed(
                reason=f"there is no user {wanted.name[:60]!r}; `microclaw users list` shows them", code="not_found"
            )
        if wanted.action == "rm":
            self.forget(db, user, user.senders)
            return user
        changed = core.change_role(user, wanted.role, self._registry.all())
        if isinstance(changed, Rejected):
            return Failed(reason=changed.reason, code="conflict")
        db.execute(update(users).where(users.c.name == user.name).values(role=wanted.role.value))
        return changed
