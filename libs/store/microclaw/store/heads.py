"""Which migration is each service's newest, told by the files' names: no Alembic is imported for it.

A revision lives in `migrations/versions/<service>/<service>_<number>_<what>.py`; its id is
`<service>_<number>`.
"""

from __future__ import annotations

from pathlib import Path

#: The services with a database of their own, in the order in which they are migrated.
SERVICES = ("router", "queue", "scheduler", "sandbox", "egress", "console")


def _migrations_folder() -> Path:
    here = Path(__file__).resolve()
    installed = here.parent / "migrations"
    return installed if installed.is_dir() else here.parents[4] / "migrations"


#: Alembic's folder: `migrations/` of the checkout, or the wheel's copy of it.
MIGRATIONS = _migrations_folder()


def _heads() -> dict[str, str]:
    found: dict[str, str] = {}
    for service in SERVICES:
        folder = MIGRATIONS / "versions" / service
        newest = max((file.name for file in folder.glob(f"{service}_[0-9]*.py")), default="")
        if newest:
            found[service] = "_".join(newest.split("_")[:2])
    return found


#: Service → newest revision. A service without a migration has no database.
HEADS: dict[str, str] = _heads()
