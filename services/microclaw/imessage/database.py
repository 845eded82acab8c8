"""Messages' own database, `chat.db`: read only, a new connection for each look.

`mode=ro` and never `immutable=1`, which would not see the write-ahead log; no transaction is held, so Messages is
never kept from its checkpoints. A new connection each time also sees a database that was replaced. The tables are
those of macOS 12 to 26; columns that came later are asked for only where they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Seconds between 1970 and 2001, Apple's epoch.
APPLE_EPOCH_S = 978_307_200
#: Values above are nanoseconds, others seconds (before macOS 10.13).
_NANOSECONDS_FROM = 100_000_000_000
#: `chat.style` of a group chat; 45 is a chat of two.
GROUP_STYLE = 43
#: `associated_message_type` from here on: tapbacks and other marks on a message.
MARK_TYPE_MIN = 1000
#: `attachment.transfer_state` of a file that is all here.
TRANSFERRED = 5
BUSY_S = 2.0
#: Messages can be changed for a quarter of an hour: edits are looked for among so many of the newest rows.
EDITABLE_ROWS = 2_000

#: What must be there; anything else missing is lived without.
NEEDED = {
    "message": {
        "ROWID", "guid", "text", "attributedBody", "handle_id", "date", "is_from_me", "associated_message_type",
    },
    "handle": {"ROWID", "id"},
    "chat": {"ROWID", "guid", "style", "chat_identifier", "display_name"},
    "chat_message_join": {"chat_id", "message_id"},
}
#: Columns of `message` that came later, and what stands for them.
_LATER = {
    "date_edited": "0", "date_retracted": "0", "thread_originator_guid": "NULL", "destination_caller_id": "NULL",
    "cache_has_attachments": "0", "item_type": "0",
}


class CantRead(Exception):
    """The database can't be opened. `denied`: macOS does not let us (Full Disk Access)."""

    def __init__(self, reason: str, *, denied: bool) -> None:
        self.denied = denied
        super().__init__(reason)


class OtherSchema(Exception):
    """The tables are not those that this program knows."""


@dataclass(frozen=True, slots=True)
class File:
    """A row of `attachment`."""

    path: str
    name: str
    size_bytes: int
    arrived: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `message` with its chat and sender. Times are Apple's, as they stand."""

    rowid: int
    guid: str
    text: str | None
    body: bytes | None
    sender: str
    from_me: bool
    date: int
    edited: int
    retracted: int
    mark_type: int
    item_type: int
    answers: str
    own_address: str
    has_files: bool
    #: "" = not joined to a chat (yet).
    chat_identifier: str
    chat_name: str
    is_group: bool

    @property
    def changed(self) -> int:
        """When it was edited or withdrawn; 0 = never."""
        return max(self.edited, self.retracted)


def unix_ms(apple: int) -> int:
    """An Apple time stamp as Unix milliseconds; 0 = never."""
    if not apple:
        return 0
    if abs(apple) > _NANOSECONDS_FROM:
        return APPLE_EPOCH_S * 1000 + apple // 1_000_000
    return (APPLE_EPOCH_S + apple) * 1000


class Database:
    """One look at the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """:raises OtherSchema: a table or column that is needed is not there."""
        self._db = connection
        self._db.row_factory = sqlite3.Row
        columns = {
            table: {str(row["name"]) for row in connection.execute(f"PRAGMA table_info({table})")} for table in NEEDED
        }
        missing = sorted(
            f"{table}.{name}" for table, needed in NEEDED.items() for name in needed - columns[table] - {"ROWID"}
        )
        if missing:
            raise OtherSchema(
                f"Messages' database has no {', '.join(missing)}: this macOS keeps its messages in a way that this "
                "version of MicroClaw does not know; nothing is read until it is updated"
            )
        later = ", ".join(
            f"m.{name}" if name in columns["message"] else f"{instead} AS {name}" for name, instead in _LATER.items()
        )
        self._select = (
            "SELECT m.ROWID AS rowid, m.guid, m.text, m.attributedBody AS body, m.date, m.is_from_me, "  # noqa: S608
            f"m.associated_message_type AS mark_type, {later}, h.id AS sender, "
            "c.chat_identifier, c.display_name, c.style FROM message m "
            "LEFT JOIN handle h ON h.ROWID = m.handle_id "
            "LEFT JOIN chat_message_join j ON j.message_id = m.ROWID LEFT JOIN chat c ON c.ROWID = j.chat_id "
        )
        self._has_edits = "date_edited" in columns["message"]

    def last_rowid(self) -> int:
        """The newest row; 0 = there is none."""
        return int(self._db.execute("SELECT coalesce(max(ROWID), 0) FROM message").fetchone()[0])

    def after(self, rowid: int, limit: int) -> list[Row]:
        """The rows behind this one, in the order in which they came."""
        return self._rows("WHERE m.ROWID > ? GROUP BY m.ROWID ORDER BY m.ROWID LIMIT ?", rowid, limit)

    def edited_since(self, apple: int, up_to_rowid: int, limit: int) -> list[Row]:
        """Rows that were changed or withdrawn at this time or later, of the `EDITABLE_ROWS` up to a row."""
        if not self._has_edits:
            return []
        stamp = "max(coalesce(m.date_edited, 0), coalesce(m.date_retracted, 0))"
        return self._rows(
            f"WHERE m.ROWID > ? AND m.ROWID <= ? AND {stamp} >= ? AND {stamp} > 0 "
            f"GROUP BY m.ROWID ORDER BY {stamp}, m.ROWID LIMIT ?",
            up_to_rowid - EDITABLE_ROWS, up_to_rowid, apple, limit,
        )

    def own_after(self, rowid: int, chat_identifier: str) -> list[Row]:
        """What was sent from this account to a chat since, in order."""
        return self._rows(
            "WHERE m.ROWID > ? AND m.is_from_me = 1 AND c.chat_identifier = ? GROUP BY m.ROWID ORDER BY m.ROWID",
            rowid, chat_identifier,
        )

    def guid_at(self, rowid: int) -> str:
        """Which message stands there; "" = none."""
        found = self._db.execute("SELECT guid FROM message WHERE ROWID = ?", (rowid,)).fetchone()
        return str(found[0]) if found else ""

    def by_guid(self, guid: str) -> Row | None:
        """One message."""
        return next(iter(self._rows("WHERE m.guid = ? GROUP BY m.ROWID LIMIT 1", guid)), None)

    def rowid_before(self, apple: int) -> int:
        """The row before the first one written at this time or later."""
        found = self._db.execute("SELECT min(ROWID) - 1 FROM message WHERE date >= ?", (apple,)).fetchone()[0]
        return self.last_rowid() if found is None else int(found)

    def group_names(self) -> dict[str, str]:
        """What the groups that have a name are called, by their identifiers."""
        rows = self._db.execute(
            "SELECT chat_identifier, display_name FROM chat WHERE style = ? AND display_name != '' ORDER BY ROWID",
            (GROUP_STYLE,),
        )
        return {str(row["chat_identifier"]): str(row["display_name"]) for row in rows if row["chat_identifier"]}

    def chat_guid(self, chat_identifier: str) -> str:
        """What AppleScript calls the chat; its first part differs between versions of macOS. "" = there is none."""
        found = self._db.execute(
            "SELECT guid FROM chat WHERE chat_identifier = ? ORDER BY ROWID DESC LIMIT 1", (chat_identifier,)
        ).fetchone()
        return str(found[0]) if found else ""

    def files(self, rowid: int) -> list[File]:
        """What came with a message."""
        rows = self._db.execute(
            "SELECT a.filename, a.transfer_name, a.total_bytes, a.transfer_state FROM attachment a "
            "JOIN message_attachment_join j ON j.attachment_id = a.ROWID WHERE j.message_id = ? ORDER BY a.ROWID",
            (rowid,),
        )
        return [
            File(
                path=row["filename"] or "", name=row["transfer_name"] or Path(row["filename"] or "file").name,
                size_bytes=int(row["total_bytes"] or 0), arrived=row["transfer_state"] in (TRANSFERRED, None),
            )
            for row in rows
        ]

    def _rows(self, where: str, *values: object) -> list[Row]:
        return [
            Row(
                rowid=row["rowid"], guid=row["guid"], text=row["text"], body=row["body"], sender=row["sender"] or "",
                from_me=bool(row["is_from_me"]), date=int(row["date"] or 0), edited=int(row["date_edited"] or 0),
                retracted=int(row["date_retracted"] or 0), mark_type=int(row["mark_type"] or 0),
                item_type=int(row["item_type"] or 0), answers=row["thread_originator_guid"] or "",
                own_address=row["destination_caller_id"] or "", has_files=bool(row["cache_has_attachments"]),
                chat_identifier=row["chat_identifier"] or "", chat_name=row["display_name"] or "",
                is_group=row["style"] == GROUP_STYLE,
            )
            for row in self._db.execute(self._select + where, values)
        ]


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Look at the database.

    :raises CantRead: it can't be opened. :raises OtherSchema: its tables are not known.
    """
    try:
        with path.open("rb"):
            pass
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None)
    except PermissionError as error:
        raise CantRead(f"{path} can't be read: {error.strerror}", denied=True) from error
    except (OSError, sqlite3.OperationalError) as error:
        raise CantRead(f"{path} can't be opened: {error}", denied=False) from error
    try:
        try:
            yield Database(connection)
        except sqlite3.OperationalError as error:
            denied = "authorization denied" in str(error)
            raise CantRead(f"{path} can't be read: {error}", denied=denied) from error
        except sqlite3.DatabaseError as error:
            raise CantRead(f"{path} is damaged: {error}", denied=False) from error
    finally:
        connection.close()
