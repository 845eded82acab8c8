"""Every service's migrations make exactly the tables that it defines, whole or not at all."""

from __future__ import annotations

import importlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from microclaw.core.errors import UnhealthyError
from microclaw.core.home import Home, home_from
from microclaw.store import migrate
from microclaw.store.engine import engine_for, open_store
from microclaw.store.heads import CHANNEL, CHANNEL_HEAD, HEADS, MIGRATIONS
from microclaw.store.migrate import upgrade, upgrade_channel, version_of
from microclaw.store.schema import is_compared

#: Branch of history → its newest revision.
BRANCHES = HEADS | {CHANNEL: CHANNEL_HEAD}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = home_from({"MICROCLAW_HOME": str(tmp_path / "h")})
    home.create()
    return home


def config_of(service: str) -> Config:
    return Config(str(MIGRATIONS / "alembic.ini"), ini_section=service)


@pytest.fixture(scope="module", params=sorted(BRANCHES))
def migrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    home = home_from({"MICROCLAW_HOME": str(tmp_path_factory.mktemp("m"))})
    home.create()
    upgrade(home)
    upgrade_channel(home, CHANNEL)
    yield request.param, home.database(request.param)


def test_the_head_told_by_file_names_is_the_one_alembic_finds() -> None:
    for service in BRANCHES:
        script = ScriptDirectory.from_config(config_of(service))
        assert script.get_heads() == [BRANCHES[service]]
        first = script.get_revision(script.get_base() or "")
        assert first is not None and first.branch_labels == {service}


def test_migrated_schema_is_what_the_service_defines(migrated: tuple[str, Path]) -> None:
    service, path = migrated
    metadata = importlib.import_module(f"microclaw.{service}.tables").metadata
    engine = engine_for(path)
    with engine.connect() as db:
        context = MigrationContext.configure(db, opts={
            "compare_type": True, "compare_server_default": True, "include_name": is_compared,
        })
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    assert all(name.startswith(f"{service}_") for name in metadata.tables), "a table's name tells its writer"


def test_a_migrated_search_index_is_the_one_that_the_service_defines(
    migrated: tuple[str, Path], tmp_path: Path
) -> None:
    service, path = migrated
    fresh = engine_for(tmp_path / "fresh.db")
    importlib.import_module(f"microclaw.{service}.tables").metadata.create_all(fresh)
    fresh.dispose()
    found = []
    for file in (path, tmp_path / "fresh.db"):
        with closing(sqlite3.connect(file)) as db:
            found.append(db.execute(
                "SELECT type, name, sql FROM sqlite_master WHERE name LIKE '%\\_search%' ESCAPE '\\' ORDER BY name"
            ).fetchall())
    assert found[0] == found[1]
    assert bool(found[0]) is (service == "router")


def test_down_to_nothing_and_up_again_gives_the_same_schema(migrated: tuple[str, Path]) -> None:
    service, path = migrated

    def schema() -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute(
                "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
            ).fetchall()

    before = schema()
    engine = engine_for(path, foreign_keys=False)
    config = config_of(service)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.rollback()
        assert [name for _type, name, _sql in schema() if not name.startswith("alembic_version")] == []
        command.upgrade(config, "head")
    engine.dispose()
    assert [row[:2] for row in schema()] == [row[:2] for row in before]
    assert schema() == before


def test_rules_of_egress_outlive_the_step_to_rules_for_tools_and_back_they_are_never_wider(home: Home) -> None:
    path = home.database("egress")
    engine = engine_for(path, foreign_keys=False)
    config = config_of("egress")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "egress_0003")
        connection.rollback()
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("INSERT INTO egress_rules VALUES ('home', 'a.example', 443, 'allow', 7)")
            command.upgrade(config, "egress_0004")
            connection.rollback()
            assert db.execute("SELECT group_folder, tool, host, port, websocket, opaque, verdict, added_ms "
                              "FROM egress_rules").fetchall() == [("home", "", "a.example", 443, 0, 0, "allow", 7)]
            for tool, host, verdict in (
                ("bash", "a.example", "deny"), ("web_fetch", "b.example", "allow"), ("", "c.example", "allow"),
            ):
                db.execute(
                    "INSERT INTO egress_rules (group_folder, tool, host, port, websocket, opaque, verdict, added_ms) "
                    "VALUES ('home', ?, ?, 443, 0, 0, ?, 8)", (tool, host, verdict),
                )
            command.downgrade(config, "egress_0003")
            connection.rollback()
            left = db.execute("SELECT host, verdict FROM egress_rules ORDER BY host").fetchall()
            assert left == [("a.example", "deny"), ("c.example", "allow")]
    engine.dispose()


def test_second_upgrade_does_nothing_and_imports_neither_alembic_nor_sqlalchemy(home: Home) -> None:
    assert [line.split(":")[0] for line in upgrade(home)] == list(HEADS)
    assert upgrade(home) == []
    code = (
        "import sys; from microclaw.core.home import home_from; from microclaw.store.migrate import upgrade;"
        f"assert upgrade(home_from({{'MICROCLAW_HOME': {str(home.data.parent)!r}}})) == [];"
        "assert not {'alembic', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_that_start_at_once_migrate_once(home: Home) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "microclaw.store.migrate", str(home.data.parent)],
            stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("".join(outputs).replace("nothing to do\n", "").splitlines()) == sorted(
        f"{service}: new → {head}" for service, head in HEADS.items()
    )


def test_each_connector_has_a_database_of_its_own_made_when_it_is_asked_for(home: Home) -> None:
    upgrade(home)
    assert not home.database("telegram").exists()
    assert upgrade_channel(home, "telegram") == [f"telegram: new → {CHANNEL_HEAD}"]
    assert upgrade_channel(home, "telegram") == []
    assert upgrade_channel(home, "discord") == [f"discord: new → {CHANNEL_HEAD}"]
    assert version_of(home.database("telegram")) == version_of(home.database("discord")) == CHANNEL_HEAD


def test_databases_are_private_to_the_user(home: Home) -> None:
    upgrade(home)
    for service in HEADS:
        for file in home.data.glob(f"{service}.db*"):
            assert file.stat().st_mode & 0o077 == 0, file


class TestWithARevisionMore:
    """A branch of history of its own: an old database at `x_0001`, a program at `x_0002`."""

    @pytest.fixture
    def history(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "migrations"
        versions = folder / "versions" / "router"
        versions.mkdir(parents=True)
        for name in ("env.py", "script.py.mako"):
            (folder / name).write_text((MIGRATIONS / name).read_text())
        (versions / "router_0001_a.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            "revision = 'router_0001'\ndown_revision = None\nbranch_labels = ('router',)\ndepends_on = None\n"
            "def upgrade():\n    op.create_table('router_a', sa.Column('n', sa.Integer, primary_key=True))\n"
            "def downgrade():\n    op.drop_table('router_a')\n"
        )
        monkeypatch.setattr(migrate, "MIGRATIONS", folder)
        monkeypatch.setattr(migrate, "HEADS", {"router": "router_0001"})
        return versions

    def add_second(self, versions: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "") -> None:
        (versions / "router_0002_b.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            "revision = 'router_0002'\ndown_revision = 'router_0001'\n"
            "branch_labels = None\ndepends_on = None\n"
            "def upgrade():\n    op.create_table('router_b', sa.Column('n', sa.Integer, primary_key=True))\n"
            f"    {extra}\n"
            "def downgrade():\n    op.drop_table('router_b')\n"
        )
        monkeypatch.setattr(migrate, "HEADS", {"router": "router_0002"})

    def test_an_existing_database_is_copied_before_it_is_changed(
        self, home: Home, history: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upgrade(home)
        with closing(sqlite3.connect(home.database("router"))) as db:
            db.execute("INSERT INTO router_a VALUES (7)")
            db.commit()
        self.add_second(history, monkeypatch)
        assert upgrade(home) == ["router: router_0001 → router_0002"]
        [copy] = (home.data / "backups").iterdir()
        assert version_of(copy) == "router_0001"
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("SELECT n FROM router_a").fetchall() == [(7,)]

    def test_a_migration_that_fails_changes_nothing(
        self, home: Home, history: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upgrade(home)
        self.add_second(history, monkeypatch, "raise RuntimeError('killed here')")
        with pytest.raises(RuntimeError, match="killed here"):
            upgrade(home)
        assert version_of(home.database("router")) == "router_0001"
        with closing(sqlite3.connect(home.database("router"))) as db:
            assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'router_b'").fetchone()

    def test_a_database_of_a_newer_program_is_refused_and_left_alone(
        self, home: Home, history: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upgrade(home)
        with closing(sqlite3.connect(home.database("router"))) as db:
            db.execute("UPDATE alembic_version SET version_num = 'router_0009'")
            db.commit()
        with pytest.raises(UnhealthyError, match=r"router_0009.*newer"):
            upgrade(home)
        assert version_of(home.database("router")) == "router_0009"

    def test_only_the_newest_copies_are_kept(self, home: Home, history: Path) -> None:
        upgrade(home)
        for _ in range(migrate.BACKUPS_KEPT_COUNT + 3):
            newest = migrate.back_up(home.database("router"), home.data / "backups", "router_0001")
        kept = sorted((home.data / "backups").iterdir())
        assert len(kept) == migrate.BACKUPS_KEPT_COUNT and kept[-1] == newest


def test_a_damaged_database_is_told_with_the_way_out(home: Home) -> None:
    home.database("router").write_bytes(b"not a database" * 1000)
    with pytest.raises(UnhealthyError, match="is damaged"):
        upgrade(home)


def test_opening_a_database_of_another_version_is_refused(home: Home) -> None:
    with pytest.raises(UnhealthyError, match="missing"):
        open_store(home.database("router"), HEADS["router"])
    upgrade(home)
    open_store(home.database("router"), HEADS["router"]).dispose()
    with pytest.raises(UnhealthyError, match="microclaw up"):
        open_store(home.database("router"), "router_9999")


def test_a_damaged_database_names_its_newest_copy_and_one_that_is_closed_to_us_is_not_called_damaged(
    home: Home,
) -> None:
    path = home.database("router")
    path.write_text("garbage")
    with pytest.raises(UnhealthyError, match=r"router.db is damaged .*there is no copy of it yet: move it away"):
        version_of(path)
    copies = home.data / "backups"
    copies.mkdir()
    for stamp in ("0006-20260101T000000.000000Z", "0005-20260301T000000.000000Z"):
        (copies / f"router_{stamp}.db").touch()
    with pytest.raises(UnhealthyError, match=r"put its newest copy there: cp .*/router_0005-20260301T.* .*/router.db$"):
        version_of(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnhealthyError, match="it is not damaged, but closed to this user, read-only or in use"):
        version_of(path)
