"""What the services' table definitions have in common."""

from __future__ import annotations

import re

from sqlalchemy import MetaData

#: Every constraint has a name, so that a later migration can change it, on SQLite too.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_metadata() -> MetaData:
    """The collection that a service's `tables.py` puts its tables into (as `metadata`)."""
    return MetaData(naming_convention=_NAMES)


def is_compared(table: str | None, kind: str, _parent: object = None) -> bool:
    """Whether Alembic compares this table: a full-text index (`…_search`) and what it is made of are SQLite's own."""
    return kind != "table" or re.search(r"_search(_(data|idx|docsize|config|content))?\Z", table or "") is None
