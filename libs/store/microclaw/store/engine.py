"""Opening a service's database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from microclaw.core.errors import UnhealthyError
from microclaw.store.damage import unreadable

#: How long SQLite waits for another opener (there should be none but `backup`).
BUSY_MS = 5_000


def engine_for(path: Path, *, foreign_keys: bool = True, one_thread: bool = False) -> Engine:
    """An engine on this SQLite file: one connection, WAL, `synchronous=FULL` (commits survive power loss).

    Explicit transactions: SQLAlchemy begins them, not the driver, so that reads are consistent too.
    `foreign_keys` is off for migrations only: rebuilding a table there would cascade. `one_thread`: only the thread
    that used it first may use it.
    """
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": one_thread},
        # Errors go to the log and to the dead letters: they name the statement, not what people wrote.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        keys = "ON" if foreign_keys else "OFF"
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"foreign_keys={keys}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def open_store(path: Path, head: str, *, one_thread: bool = False) -> Engine:
    """The engine of a service whose newest migration is `head`. `one_thread`: as `engine_for`.

    :raises UnhealthyError: the database is missing, older or newer than the code, or damaged.
    """
    if not path.exists():
        raise UnhealthyError(f"{path.name} is missing: run `microclaw up` to make it")
    engine = engine_for(path, one_thread=one_thread)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DatabaseError as error:
        raise unreadable(path, error.orig) from error
    if found != head:
        raise UnhealthyError(
            f"{path.name} is at version {found}, this program needs {head}: run `microclaw up`, it migrates"
        )
    return engine
