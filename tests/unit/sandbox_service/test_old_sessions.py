"""What is old goes by itself, what is new or somebody's own stays, and no link leads the deleting elsewhere."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.home import Home, home_from
from microclaw.sandbox import old_sessions
from microclaw.sandbox.old_sessions import ASIDE_KEPT_MS, ASIDE_MAX, DAY_MS, SPARED, Gone, superfluous, tidy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = home_from({"MICROCLAW_HOME": str(tmp_path)})
    made.create()
    return made


def aside(home: Home, group: str, days_ago: int) -> Path:
    folder = home.sessions / f"{group}.stale-{NOW_MS - days_ago * DAY_MS}"
    (folder / "deep").mkdir(parents=True)
    (folder / "group.jsonl").write_text("{}\n")
    return folder


def page(home: Home, group: str, days_ago: int, number: int = 0) -> Path:
    folder = home.groups / group / "conversations"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NOW - timedelta(days=days_ago):%Y-%m-%d}-{number:08x}.md"
    path.write_text("# An earlier conversation\n")
    return path


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 1_000)), st.integers(0, 40))
def test_the_newest_stay_and_no_more_than_the_bound(made_ms: dict[str, int], number_max: int) -> None:
    goes = set(superfluous(made_ms, 1_000, 300, number_max))
    stays = set(made_ms) - goes
    assert len(stays) <= number_max
    assert all(made_ms[one] >= made_ms[other] for one in stays for other in goes)
    assert len(stays) >= min(SPARED, number_max, len(made_ms))
    assert len([name for name in stays if made_ms[name] < 700]) <= SPARED


def test_sessions_put_aside_go_when_they_are_old_or_many_and_each_group_has_its_own_bound(home: Home) -> None:
    old = [aside(home, "fam", days) for days in range(91, 100)]
    new = [aside(home, "fam", days) for days in range(SPARED)]
    many = [aside(home, "club", days) for days in range(ASIDE_MAX + 3)]
    live = home.sessions / "fam"
    live.mkdir()
    odd = [home.sessions / name for name in ("fam.stale-x", "fam.fork", "../x.stale-1")]
    for path in odd[:2]:
        path.mkdir()
    assert tidy(home, NOW_MS) == Gone(len(old) + 3, 0)
    assert [path for path in (*new, *many[:ASIDE_MAX], live, *odd[:2]) if not path.exists()] == []
    assert [path for path in (*old, *many[ASIDE_MAX:]) if path.exists()] == []
    assert tidy(home, NOW_MS) == Gone(0, 0)


def test_a_clock_that_runs_ahead_does_not_cost_everything(home: Home) -> None:
    sessions = [aside(home, "fam", days) for days in range(SPARED)]
    pages = [page(home, "fam", days) for days in range(SPARED)]
    assert tidy(home, NOW_MS + 100 * ASIDE_KEPT_MS) == Gone(0, 0)
    assert all(path.exists() for path in (*sessions, *pages))


def test_pages_go_and_what_somebody_put_beside_them_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_sessions, "PAGES_MAX", 8)
    new = [page(home, "fam", days) for days in range(6)]
    old = [page(home, "fam", 731 + days) for days in range(4)]
    many = [page(home, "club", 1, number) for number in range(10)]
    folder = home.groups / "fam" / "conversations"
    own = [folder / name for name in ("notes.md", "2020-01-01.md", "2020-13-01-00000000.md")]
    for path in own:
        path.write_text("mine")
    assert tidy(home, NOW_MS) == Gone(0, 6)
    assert all(path.exists() for path in (*new, *own)) and not any(path.exists() for path in old)
    assert sum(path.exists() for path in many) == 8


def test_ac39_links_that_an_agent_put_there_lead_nowhere(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(20):
        (elsewhere / f"2000-01-{number + 1:02}-{number:08x}.md").write_text("of the host")
    (home.groups / "fam").mkdir()
    os.symlink(elsewhere, home.groups / "fam" / "conversations")
    os.symlink(elsewhere, home.groups / "club")
    os.symlink(elsewhere, home.sessions / f"fam.stale-{NOW_MS - 400 * DAY_MS}")
    old = [aside(home, "fam", 300 + days) for days in range(10)]
    os.symlink(elsewhere, old[-1] / "deep" / "way")
    assert tidy(home, NOW_MS).pages == 0
    assert len(list(elsewhere.iterdir())) == 20
    assert not old[-1].exists()
