"""What the sandbox service keeps: of a run, whether it has begun and whether something of it can be seen; the owner's
stops; and what agents remember, line by line with its sources."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, String, Table

from microclaw.store.schema import new_metadata

metadata = new_metadata()

#: Only runs that need it have a row: those that take long, and those that said something before their end.
runs = Table(
    "sandbox_runs", metadata,
    Column("run_id", String(200), primary_key=True),
    Column("noted_ms", BigInteger, nullable=False, index=True),
    #: When its first message to a chat was about to be published; NULL = none was.
    Column("visible_ms", BigInteger, nullable=True),
)

#: The owner's last `/stop` in a group, until a run comes that was granted later.
stops = Table(
    "sandbox_stops", metadata,
    Column("folder", String(64), primary_key=True),
    Column("stopped_ms", BigInteger, nullable=False),
)

#: Folders whose memory is kept watch over.
memory_folders = Table(
    "sandbox_memory_folders", metadata,
    Column("folder", String(64), primary_key=True),
    #: The group whose agents write there (the main one's also in the shared folder).
    Column("group_folder", String(64), nullable=False),
    Column("is_main", Boolean, nullable=False),
    #: A worker of the group has had a turn since the folder was last known to be the owner's alone to change.
    Column("is_awake", Boolean, nullable=False),
    #: Number of the last audit entry that was looked at for hosts that the agent reached.
    Column("audit_number", BigInteger, nullable=False),
)

#: What was told, since when, to the agents that write in a folder.
memory_sources = Table(
    "sandbox_memory_sources", metadata,
    Column("folder", String(64), primary_key=True),
    #: `conversation` (until `/new`), or a worker's id (until that ends).
    Column("scope", String(100), primary_key=True),
    Column("source", String(200), primary_key=True),
    Column("is_trusted", Boolean, primary_key=True),
)

#: The memory itself: what turns are told, whatever lies in the folder.
memory_files = Table(
    "sandbox_memory_files", metadata,
    Column("folder", String(64), primary_key=True),
    Column("name", String(100), primary_key=True),
    #: NULL = there is no such file (any more).
    Column("content", LargeBinary, nullable=True),
    #: msgpack: for each line, the change that brought it.
    Column("origins", LargeBinary, nullable=False),
    #: The file in the folder may be another; it is written before anything is compared.
    Column("is_behind", Boolean, nullable=False),
)

#: Tasks that agents made (and last changed) where only trusted words were.
memory_tasks = Table(
    "sandbox_memory_tasks", metadata,
    Column("task_id", String(200), primary_key=True),
)

#: Every change: those that lines still come from, those that wait for the owner, and lately what became of the others.
memory_changes = Table(
    "sandbox_memory_changes", metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("folder", String(64), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    #: `in`, `held`, `refused`, `forgotten`.
    Column("state", String(10), nullable=False, index=True),
    Column("run_id", String(200), nullable=False),
    #: msgpack: the names of its sources.
    Column("sources", LargeBinary, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    #: Of a held one: its content (NULL = the file would go), and what it was made from.
    Column("content", LargeBinary, nullable=True),
    Column("base", LargeBinary, nullable=False),
    #: Under which code the owner was asked, "" = not yet; and whether nobody answered in time.
    Column("code", String(8), nullable=False),
    Column("is_expired", Boolean, nullable=False),
)
