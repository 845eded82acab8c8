"""What is read of a NanoClaw folder, and what becomes of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from microclaw.cli.__main__ import main
from microclaw.cli.nanoclaw_files import TheirFiles
from microclaw.core.errors import UsageError
from microclaw.core.nanoclaw import TheirGroup, TheirTask, chat_of, plan_move

NOW = 1_770_000_000_000
SCHEMA = """
CREATE TABLE chats (jid TEXT PRIMARY KEY, name TEXT, last_message_time TEXT);
CREATE TABLE messages (id TEXT, chat_jid TEXT, sender TEXT, sender_name TEXT, content TEXT, timestamp TEXT,
  is_from_me INTEGER, PRIMARY KEY (id, chat_jid));
CREATE TABLE scheduled_tasks (id TEXT PRIMARY KEY, group_folder TEXT, chat_jid TEXT, prompt TEXT, schedule_type TEXT,
  schedule_value TEXT, context_mode TEXT, next_run TEXT, last_run TEXT, last_result TEXT, status TEXT, created_at TEXT);
CREATE TABLE router_state (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE registered_groups (jid TEXT PRIMARY KEY, name TEXT, folder TEXT UNIQUE, trigger_pattern TEXT,
  added_at TEXT, container_config TEXT, requires_trigger INTEGER DEFAULT 1);
INSERT INTO chats VALUES ('fam@g.us', 'The family', '2026-01-01T00:00:03.000Z');
INSERT INTO messages VALUES ('m2', 'fam@g.us', 'ann@s.whatsapp.net', 'Ann', 'second', '2026-01-01T00:00:02.500Z', 0),
  ('m1', 'fam@g.us', 'ann@s.whatsapp.net', 'Ann', 'first', '2026-01-01T00:00:01Z', 0),
  ('m3', 'fam@g.us', 'me', 'Me', 'Andy: an answer', '2026-01-01T00:00:03.000Z', 1);
INSERT INTO registered_groups VALUES ('me@s.whatsapp.net', 'Me', 'main', '@Andy', '2026', NULL, 0),
  ('fam@g.us', 'Family', 'fam', '@Andy', '2026', '{"timeout": 60000}', 1);
INSERT INTO scheduled_tasks VALUES ('t1', 'fam', 'fam@g.us', 'water the plants', 'cron', '0 9 * * *', 'group',
  NULL, NULL, NULL, 'active', '2026');
INSERT INTO router_state VALUES ('last_agent_timestamp', '{"fam@g.us": "2026-01-01T00:00:01.000Z"}');
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    root = tmp_path / "nanoclaw"
    (root / "store").mkdir(parents=True)
    (root / "groups" / "fam" / "logs").mkdir(parents=True)
    (root / "groups" / "fam" / "CLAUDE.md").write_text("Ann likes tea.")
    (root / "groups" / "fam" / "logs" / "x.log").write_text("noise")
    (root / "groups" / "fam" / "link").symlink_to("/etc/passwd")
    (root / ".env").write_text("ANTHROPIC_API_KEY=value-one\nOTHER=no\n")
    db = sqlite3.connect(root / "store" / "messages.db")
    db.executescript(SCHEMA)
    db.close()
    return root


def test_the_script_of_a_task_of_a_later_version_comes_along(theirs: Path) -> None:
    assert [task.script for task in TheirFiles(theirs).tasks()] == [""]
    db = sqlite3.connect(theirs / "store" / "messages.db")
    db.execute("ALTER TABLE scheduled_tasks ADD COLUMN script TEXT")
    db.execute("UPDATE scheduled_tasks SET script = 'exit 0'")
    db.commit()
    db.close()
    found = TheirFiles(theirs)
    move = plan_move(found.groups(), found.tasks(), taken={}, now_ms=NOW, zone=ZoneInfo("UTC"))
    assert [task.script for task in move.tasks] == ["exit 0"]


def test_the_history_comes_in_the_order_of_time_with_whose_it_is(theirs: Path) -> None:
    found = list(TheirFiles(theirs).messages("Andy"))
    assert [each.platform_id for each in found] == ["m1", "m2", "m3"]
    assert [each.is_own_reply for each in found] == [False, False, True]
    assert {each.chat for each in found} == {"whatsapp:fam@g.us"}
    assert found[0].chat_name == "The family" and found[0].is_group


def test_memory_is_copied_and_nothing_is_overwritten(theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "CLAUDE.md").write_text("ours")
    files = TheirFiles(theirs)
    assert files.copy_folder("fam", ours) == (1, 0)
    assert files.copy_folder("fam", ours) == (0, 1)
    assert sorted(path.name for path in ours.iterdir()) == ["CLAUDE.md", "CLAUDE.md.nanoclaw"]
    assert (ours / "CLAUDE.md").read_text() == "ours"


def test_the_dry_run_changes_nothing(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MICROCLAW_HOME", str(tmp_path / "home"))
    assert main(["migrate", "from-nanoclaw", str(theirs)]) == 0
    said = capsys.readouterr().out
    assert "main-nanoclaw" in said and "water the plants" in said and "messages 3" in said
    assert "anthropic-api-key" in said and "value-one" not in said
    assert not (tmp_path / "home").exists()


def test_what_is_no_installation_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"messages\.db"):
        TheirFiles(tmp_path)


def test_addresses() -> None:
    assert [chat_of(jid) for jid in ("1@g.us", "tg:-5", "dc:7", "whatsapp:1@g.us")] == [
        "whatsapp:1@g.us", "telegram:-5", "discord:7", "whatsapp:1@g.us",
    ]


def test_what_can_not_come_along_is_told() -> None:
    def task(**facts: str) -> TheirTask:
        return TheirTask(**({
            "id": "t", "folder": "fam", "jid": "f@g.us", "prompt": "p", "schedule": "interval", "value": "60000",
        } | facts))

    move = plan_move(
        [TheirGroup("f@g.us", "F", "fam"), TheirGroup("x@g.us", "X", "../up"),
         TheirGroup("y@g.us", "Y", "bad", container_config="{")],
        [task(), task(id="t2", status="paused"), task(id="t3", status="completed"), task(id="t4", folder="gone"),
         task(id="t5", schedule="cron", value="no"),
         task(id="t6", schedule="once", value="2020-01-01", status="paused")],
        taken={"fam": "whatsapp:f@g.us"}, now_ms=NOW, zone=ZoneInfo("UTC"),
    )
    assert [group.folder for group in move.groups] == ["fam", "bad"]
    assert len(move.tasks) == 2
    assert move.paused == {"nanoclaw task t2"}
    assert len(move.left_out) == 6
