"""Reads a NanoClaw installation's folder, and changes nothing in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from microclaw.core.errors import UsageError
from microclaw.core.kinds import MessageReceived
from microclaw.core.nanoclaw import TheirGroup, TheirTask, chat_of
from microclaw.core.text import is_own_reply

#: Folders of theirs that are of no use here.
_LEFT = frozenset({"logs", "node_modules", ".git"})


class TheirFiles:
    """The installation at `root`. Its database is `store/messages.db`.

    :raises UsageError: there is no such database, or it can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = root / "store" / "messages.db"
        if not self._path.is_file():
            raise UsageError(f"{root} is not a NanoClaw installation: there is no store/messages.db; name its folder")

    def groups(self) -> list[TheirGroup]:
        """Its registered groups."""
        return [
            TheirGroup(
                jid=row["jid"], name=row["name"] or "", folder=row["folder"], trigger=row.get("trigger_pattern") or "",
                requires_trigger=row.get("requires_trigger") != 0, container_config=row.get("container_config") or "",
            )
            for row in self._rows("registered_groups")
        ]

    def tasks(self) -> list[TheirTask]:
        """Its scheduled tasks."""
        return [
            TheirTask(
                id=row["id"], folder=row["group_folder"], jid=row["chat_jid"], prompt=row["prompt"],
                schedule=row["schedule_type"], value=row["schedule_value"], context=row.get("context_mode"),
                status=row.get("status") or "active", script=row.get("script") or "",
            )
            for row in self._rows("scheduled_tasks")
        ]

    def cursors(self) -> str:
        """`router_state.last_agent_timestamp` as it stands."""
        return next((row["value"] for row in self._rows("router_state") if row["key"] == "last_agent_timestamp"), "")

    def env(self) -> str:
        """Its `.env`, "" where there is none."""
        path = self.root / ".env"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def messages(self, assistant_name: str) -> Iterator[MessageReceived]:
        """The history, in the order of its clock."""
        names = {row["jid"]: row.get("name") or "" for row in self._rows("chats")}
        rows = [row for row in self._rows("messages") if row.get("content")]
        for row in sorted(rows, key=lambda row: ms_of(row["timestamp"])):
            flag = row.get("is_bot_message")
            jid = row["chat_jid"]
            yield MessageReceived(
                chat=chat_of(jid), platform_id=row["id"], sender=row.get("sender") or "",
                sender_name=row.get("sender_name") or "", text=row["content"], sent_ms=ms_of(row["timestamp"]),
                chat_name=names.get(jid, ""), is_group=jid.endswith("@g.us"), from_me=bool(row.get("is_from_me")),
                is_own_reply=is_own_reply(row["content"], assistant_name, None if flag is None else bool(flag)),
            )

    def copy_folder(self, theirs: str, ours: Path) -> tuple[int, int]:
        """Copy what is not there yet; what differs is put beside it as `NAME.nanoclaw`. Returns (copied, the same)."""
        source = self.root / "groups" / theirs
        copied = same = 0
        for here, folders, files in os.walk(source):
            folders[:] = [name for name in folders if name not in _LEFT and not (Path(here) / name).is_symlink()]
            for name in files:
                path = Path(here) / name
                if path.is_symlink() or not path.is_file():
                    continue
                target = ours / path.relative_to(source)
                if target.is_file() and not _equal(path, target):
                    target = target.with_name(f"{target.name}.nanoclaw")
                if target.is_file() and _equal(path, target):
                    same += 1
                    continue
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                target.chmod(0o600)
                copied += 1
        return copied, same

    def _rows(self, table: str) -> list[dict[str, Any]]:
        try:
            with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)) as db:
                db.row_factory = sqlite3.Row
                known = db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", (table,)).fetchone()
                query = f"SELECT * FROM {table}"  # noqa: S608 - one of our own words
                return [dict(row) for row in db.execute(query)] if known else []
        except sqlite3.Error as error:
            raise UsageError(f"{self._path} can't be read ({error}); is it NanoClaw's database?") from error


def _equal(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def ms_of(text: str) -> int:
    """Unix milliseconds of a time of theirs; 0 = it can't be read."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return 0
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


