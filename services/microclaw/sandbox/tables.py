"""What the sandbox service keeps: of a run, whether it has begun and whether something of it can be seen."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table

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
