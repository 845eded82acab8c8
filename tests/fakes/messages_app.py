"""Messages on a Mac, as far as we see it: `chat.db` in its true tables (macOS 14, the columns that concern messages;
from the public schema), people who write into it, and `tests/fakes/osascript`, which sends as Messages does.

What the stand-in program does wrong is said in a file beside the database (`behaviour.json`): a list, one entry for
each send, of "ok" (the rest too), "fail:NUMBER", "hang", "vanish" (success, and no row), "late" (the row comes after
the end).
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

from microclaw.imessage.database import APPLE_EPOCH_S

SCHEMA = """
CREATE TABLE message (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, text TEXT,
 replace INTEGER DEFAULT 0, service_center TEXT, handle_id INTEGER DEFAULT 0, subject TEXT, country TEXT,
 attributedBody BLOB, version INTEGER DEFAULT 0, type INTEGER DEFAULT 0, service TEXT, account TEXT, account_guid
 TEXT, error INTEGER DEFAULT 0, date INTEGER, date_read INTEGER, date_delivered INTEGER, is_delivered INTEGER DEFAULT
 0, is_finished INTEGER DEFAULT 0, is_from_me INTEGER DEFAULT 0, is_read INTEGER DEFAULT 0, is_sent INTEGER DEFAULT 0,
 cache_has_attachments INTEGER DEFAULT 0, item_type INTEGER DEFAULT 0, group_title TEXT,
 associated_message_guid TEXT, associated_message_type INTEGER DEFAULT 0, destination_caller_id TEXT,
 thread_originator_guid TEXT, date_edited INTEGER DEFAULT 0, date_retracted INTEGER DEFAULT 0);
CREATE TABLE handle (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, country TEXT, service TEXT NOT NULL,
 uncanonicalized_id TEXT, UNIQUE (id, service));
CREATE TABLE chat (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, style INTEGER, state INTEGER,
 account_id TEXT, chat_identifier TEXT, service_name TEXT, room_name TEXT, display_name TEXT);
CREATE TABLE chat_message_join (chat_id INTEGER, message_id INTEGER, message_date INTEGER DEFAULT 0,
 PRIMARY KEY (chat_id, message_id));
CREATE TABLE attachment (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, created_date INTEGER,
 filename TEXT, uti TEXT, mime_type TEXT, transfer_state INTEGER DEFAULT 0, transfer_name TEXT, total_bytes INTEGER);
CREATE TABLE message_attachment_join (message_id INTEGER, attachment_id INTEGER, UNIQUE (message_id, attachment_id));
CREATE INDEX message_idx_date ON message (date);
"""


def apple_now() -> int:
    return time.time_ns() - APPLE_EPOCH_S * 1_000_000_000


def typed_stream(text: str) -> bytes:
    """An archived NSAttributedString, as far as the string (the shape that macOS writes)."""
    raw = text.encode()
    size = (
        bytes([len(raw)]) if len(raw) < 0x80 else b"\x81" + len(raw).to_bytes(2, "little")
        if len(raw) < 1 << 16 else b"\x82" + len(raw).to_bytes(4, "little")
    )
    return (
        b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x01@\x84\x84\x84\x12NSAttributedString\x00\x84\x84\x08NSObject\x00\x85\x92"
        b"\x84\x84\x84\x08NSString\x01\x94\x84\x01+" + size + raw + b"\x86\x84\x02iI\x01"
    )


class MessagesApp:
    """The database, and those who write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            with closing(self._open()) as db:
                db.executescript(SCHEMA)

    def chat(self, identifier: str, *, group: bool = False, name: str = "") -> None:
        style, mark = (43, "+") if group else (45, "-")
        with closing(self._open()) as db:
            db.execute(
                "INSERT INTO chat (guid, style, chat_identifier, service_name, display_name) VALUES (?, ?, ?, ?, ?)",
                (f"iMessage;{mark};{identifier}", style, identifier, "iMessage", name),
            )

    def says(
        self, identifier: str, text: str, sender: str = "+491701", *, in_body: bool = False, joined: bool = True,
        **more: object,
    ) -> str:
        """Somebody writes; "me" is this account. Returns the guid."""
        with closing(self._open()) as db:
            handle = 0
            if sender != "me":
                db.execute("INSERT OR IGNORE INTO handle (id, service) VALUES (?, 'iMessage')", (sender,))
                handle = db.execute("SELECT ROWID FROM handle WHERE id = ?", (sender,)).fetchone()[0]
            guid = str(uuid.uuid4()).upper()
            columns = {
                "guid": guid, "text": None if in_body else text,
                "attributedBody": typed_stream(text) if in_body else None,
                "handle_id": handle, "service": "iMessage", "date": apple_now(), "is_from_me": int(sender == "me"),
                **more,
            }
            names = ", ".join(columns)
            marks = ", ".join("?" * len(columns))
            rowid = db.execute(f"INSERT INTO message ({names}) VALUES ({marks})", tuple(columns.values())).lastrowid
            if joined:
                self._join(db, identifier, rowid or 0)
        return guid

    def join(self, identifier: str, guid: str) -> None:
        """Messages puts a message into its chat."""
        with closing(self._open()) as db:
            self._join(db, identifier, db.execute("SELECT ROWID FROM message WHERE guid = ?", (guid,)).fetchone()[0])

    def attach(self, guid: str, file: Path, *, arrived: bool = True) -> None:
        with closing(self._open()) as db:
            rowid = db.execute("SELECT ROWID FROM message WHERE guid = ?", (guid,)).fetchone()[0]
            size = file.stat().st_size if file.exists() else 0
            attachment = db.execute(
                "INSERT INTO attachment (guid, filename, transfer_name, total_bytes, transfer_state) "
                "VALUES (?, ?, ?, ?, ?)", (str(uuid.uuid4()), str(file), file.name, size, 5 if arrived else 3),
            ).lastrowid
            db.execute("INSERT INTO message_attachment_join VALUES (?, ?)", (rowid, attachment))

    def change(self, guid: str, **columns: object) -> None:
        with closing(self._open()) as db:
            names = ", ".join(f"{name} = ?" for name in columns)
            db.execute(f"UPDATE message SET {names} WHERE guid = ?", (*columns.values(), guid))

    def sent(self, identifier: str) -> list[str]:
        """What this account sent to a chat."""
        with closing(self._open()) as db:
            return [row[0] for row in db.execute(
                "SELECT m.text FROM message m JOIN chat_message_join j ON j.message_id = m.ROWID "
                "JOIN chat c ON c.ROWID = j.chat_id WHERE m.is_from_me = 1 AND c.chat_identifier = ? ORDER BY m.ROWID",
                (identifier,),
            )]

    def behave(self, *behaviours: str) -> None:
        """What the next sends do."""
        self.path.with_name("behaviour.json").write_text(json.dumps(list(behaviours)))

    def run(self, script: str) -> None:
        with closing(self._open()) as db:
            db.executescript(script)

    def _join(self, db: sqlite3.Connection, identifier: str, rowid: int) -> None:
        chat = db.execute("SELECT ROWID FROM chat WHERE chat_identifier = ?", (identifier,)).fetchone()[0]
        db.execute("INSERT INTO chat_message_join (chat_id, message_id) VALUES (?, ?)", (chat, rowid))

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=20, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        return db
