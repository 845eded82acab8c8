"""Alembic's environment: one branch of history a service, one SQLite file a service.

How to add a revision
---------------------
1. Change the tables in `services/microclaw/<service>/tables.py`: `metadata = new_metadata()` from
   `microclaw.store.schema`, tables put into it (SQLAlchemy 2 Core), `outbox_tables(metadata, "<service>")`
   if used.
2. Put a file into `migrations/versions/<service>/`, named `<service>_<number>_<what>.py`, with

       revision = "queue_0002"            # the file's name up to the number, where store.heads reads it
       down_revision = "queue_0001"       # None for the first one
       branch_labels = None               # ("queue",) for the first one
       depends_on = None

   and `upgrade()` / `downgrade()` by `op.create_table` and its kin; changes of existing tables by
   `with op.batch_alter_table(...)`, which works on SQLite. Or let Alembic write it:

       python -m microclaw.store.migrate /tmp/scratch       # a home whose databases are at the present heads
       alembic -c migrations/alembic.ini -n queue -x database=/tmp/scratch/data/queue.db \
           revision --autogenerate --rev-id queue_0002 -m "leases"

   (the first one: `--branch-label queue`, and any empty file as the database).
3. `pytest tests/unit/store/test_migrations.py` compares the migrated schema with the tables and goes down and
   up again.

A revision runs in one transaction: it happens whole or not at all, whatever is killed when.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, MetaData

from microclaw.store.engine import engine_for
from microclaw.store.schema import is_compared


def tables_of(service: str) -> MetaData:
    """The table definitions of a service; imported only where schemas are compared."""
    metadata = importlib.import_module(f"microclaw.{service}.tables").metadata
    if not isinstance(metadata, MetaData):
        raise TypeError(f"microclaw.{service}.tables.metadata is not a MetaData")
    return metadata


def run(connection: Connection, target: MetaData | None) -> None:
    """Migrate over this connection, all steps in one transaction."""
    # SQLite can roll back DDL when the driver leaves transactions alone, which `engine_for` sees to.
    context.configure(
        connection=connection, target_metadata=target, render_as_batch=True, transactional_ddl=True,
        compare_type=True, compare_server_default=True, include_name=is_compared,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given, None)
else:
    database = context.get_x_argument(as_dictionary=True).get("database")
    if not database:
        raise SystemExit("say -n SERVICE -x database=FILE (see the top of migrations/env.py)")
    with engine_for(Path(database), foreign_keys=False).connect() as made:
        run(made, tables_of(context.config.config_ini_section))
