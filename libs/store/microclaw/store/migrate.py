"""Bringing every service's database to the newest schema.

`upgrade` is what `microclaw up` calls before the mesh starts. When nothing is to do it only reads six version
rows by `sqlite3`; Alembic and SQLAlchemy are imported when there is work. An existing database is copied to
`data/backups` before it is touched. Two that start at once wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from microclaw.core.errors import MicroclawError, UnhealthyError
from microclaw.core.home import Home, home_from
from microclaw.store.damage import unreadable
from microclaw.store.heads import CHANNEL, CHANNEL_HEAD, HEADS, MIGRATIONS

#: Copies kept for each service; the oldest go.
BACKUPS_KEPT_COUNT = 5


def upgrade(home: Home) -> list[str]:
    """Bring all databases of this installation to their heads. Returns what was done, one line each.

    :raises UnhealthyError: a database is damaged, or newer than this program.
    """
    if not _behind(home):
        return []
    home.create()
    with _only_one(home.data / "migrate.lock"):
        # Somebody else may have done it while we waited.
        return [_migrate(home, service, service, found) for service, found in _behind(home).items()]


def upgrade_channel(home: Home, name: str) -> list[str]:
    """The same for the database of one connector.

    :raises UnhealthyError: the database is damaged, or newer than this program.
    """
    home.create()
    with _only_one(home.data / "migrate.lock"):
        found = version_of(home.database(name))
        return [] if found == CHANNEL_HEAD else [_migrate(home, name, CHANNEL, found)]


def heads() -> dict[str, str]:
    """Service → the revision that its database must have."""
    return dict(HEADS)


def version_of(path: Path) -> str | None:
    """The revision of a database, None where there is none yet. Raises UnhealthyError: it can't be read."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        with closing(sqlite3.connect(path, timeout=5)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                return None
            row = db.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise unreadable(path, error) from error
    return str(row[0]) if row else None


def _behind(home: Home) -> dict[str, str | None]:
    found = {service: version_of(home.database(service)) for service in HEADS}
    return {service: version for service, version in found.items() if version != HEADS[service]}


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _migrate(home: Home, service: str, branch: str, found: str | None) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from microclaw.store.engine import engine_for

    path = home.database(service)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(MIGRATIONS / "versions" / branch).replace("%", "%%"))
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as error:
            raise UnhealthyError(
                f"{path.name} is at version {found}, which this program does not know: it was written by a "
                f"newer MicroClaw; run that one, or put an older copy from {home.data / 'backups'} there"
            ) from error
        back_up(path, home.data / "backups", found)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    engine = engine_for(path, foreign_keys=False)
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
    return f"{service}: {found or 'new'} → {CHANNEL_HEAD if branch == CHANNEL else HEADS[service]}"


def back_up(path: Path, folder: Path, version: str) -> Path:
    """Copy a database, even one in use, to `folder`; the name tells its version and the time."""
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    # The database's name, not the branch's: connectors share one.
    copy = folder / f"{path.stem}_{version.rpartition('_')[2]}-{stamp}.db"
    partial = copy.with_suffix(".partial")
    with closing(sqlite3.connect(path, timeout=5)) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target)
    partial.rename(copy)
    older = sorted(folder.glob(f"{path.stem}_*.db"), key=lambda file: file.name.split("-")[-1])
    for file in older[:-BACKUPS_KEPT_COUNT]:
        file.unlink()
    return copy


def main(arguments: list[str]) -> int:
    """`python -m microclaw.store.migrate [HOME | --channel NAME]`: an installation, or the database of one connector of
    the installation that the environment names; says what was done."""
    try:
        match arguments:
            case ["--channel", name]:
                done = upgrade_channel(home_from(os.environ), name)
            case _:
                done = upgrade(home_from({"MICROCLAW_HOME": arguments[0]} if arguments else dict(os.environ)))
    except MicroclawError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{line}\n" for line in done or ["nothing to do"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
