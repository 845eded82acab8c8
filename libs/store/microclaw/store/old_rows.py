"""Dropping old rows, so that nothing grows for ever."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Integer, Table, delete, func, literal_column, select

#: What a service had taken when it died and not said yet is among the last rows that it wrote.
SPARED_ROWS = 1_000


def delete_old(db: Connection, table: Table, at_ms: Column[Any], before_ms: int) -> None:
    """Delete what was written before this moment, but never the newest rows (`SPARED_ROWS`): what tells a repeat must
    be there when it comes, after however long a sleep of the machine, or jump of its clock."""
    same, rowid = table.alias(), literal_column("rowid", Integer)
    newest = select(func.max(rowid)).select_from(same).scalar_subquery()
    db.execute(delete(table).where(at_ms < before_ms, rowid <= newest - SPARED_ROWS))
