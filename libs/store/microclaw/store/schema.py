"""What the services' table definitions have in common."""

from __future__ import annotations

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
