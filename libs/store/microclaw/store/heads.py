"""Which migration is each service's newest, told by the files' names: no Alembic is imported for it.

A revision lives in `migrations/versions/<service>/<service>_<number>_<what>.py`; its id is
`<service>_<number>`.
"""

from __future__ import annotations

from pathlib import Path

#: The services with a database of their own, in the order in which they are migrated.
SERVICES = ("router", "queue", "scheduler", "sandbox", "egress", "console")
#: The branch of the connectors: each has a database of its own with the same tables, made when it first starts.
CHANNEL = "channel"


def _migrations_folder() -> Path:
    here = Path(__file__).resolve()
    installed = here.parent / "migrations"
    return installed if installed.is_dir() else here.parents[4] / "migrations"


#: Alembic's folder: `migrations/` of the checkout, or the wheel's copy of it.
MIGRATIONS = _migrations_folder()


def _head(branch: str) -> str:
    """The newest revision of a branch, "" = it has none."""
    newest = max((file.name for file in (MIGRATIONS / "versions" / branch).glob(f"{branch}_[0-9]*.py")), default="")
    return "_".join(newest.split("_")[:2])


#: Service → newest revision. A service without a migration has no database.
HEADS: dict[str, str] = {service: head for service in SERVICES if (head := _head(service))}
#: The revision that every connector's database must have.
CHANNEL_HEAD = _head(CHANNEL)
