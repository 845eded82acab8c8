"""Extra folders are given by the owner's list alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.home import home_from
from microclaw.core.mounts import AllowList, Granted, Refusal, Root, Wanted, decide, read_allow_list
from microclaw.sandbox.extra_mounts import allow_list_path, extra_mounts
from microclaw.sandbox.installation import closed_folders
from microclaw.sandbox.mounts import group_mounts
from microclaw.sandbox.spec import check_mounts

LIST = json.dumps({
    "allowedRoots": [{"path": "~/projects", "allowReadWrite": True}, {"path": "~/docs", "allowReadWrite": False}],
    "blockedPatterns": [], "nonMainReadOnly": True,
})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (
        "projects/app", "projects/.ssh/keys", "projects/my.environment", "docs", "outside", "projects-evil",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "projects/link-out").symlink_to(tmp_path / "outside")
    (tmp_path / "projects/link-in").symlink_to(tmp_path / "projects/app")
    (tmp_path / "plink").symlink_to(tmp_path / "projects")
    return tmp_path


def real(path: str) -> str | None:
    return os.path.realpath(path) if os.path.exists(path) else None


def ask(home: Path, text: str | None = LIST, *, is_main: bool = True, **wanted: Any) -> Granted | Refusal:
    return decide(
        Wanted(**wanted), read_allow_list(text), is_main=is_main, home=str(home), resolve=real,
    )


@pytest.mark.parametrize("text", [
    None, "{nope", '{"allowedRoots": {}, "blockedPatterns": [], "nonMainReadOnly": true}',
    '{"allowedRoots": [{"path": "~/projects", "allowReadWrite": true}], "blockedPatterns": []}',
    '{"allowedRoots": [], "blockedPatterns": [], "nonMainReadOnly": true}',
])
def test_no_good_list_allows_nothing(home: Path, text: str | None) -> None:
    assert isinstance(ask(home, text, host_path="~/projects/app"), Refusal)


@pytest.mark.parametrize("path", [
    "~/projects-evil", "~/projects/.ssh/keys", "~/projects/my.environment", "~/projects/link-out",
    "~/projects/../outside", "~/projects/missing", "~",
])
def test_what_lies_elsewhere_or_looks_like_credentials_is_refused(home: Path, path: str) -> None:
    assert isinstance(ask(home, host_path=path), Refusal)


@pytest.mark.parametrize("name", ["/etc", "  ", "x:ro", "../up", "a/../../b", "x\ny", ".", "./", "a,readonly"])
def test_a_name_that_leads_away_is_refused(home: Path, name: str) -> None:
    assert isinstance(ask(home, host_path="~/projects/app", container_path=name), Refusal)


def test_writing_takes_the_word_the_root_and_the_group(home: Path) -> None:
    app = str(home / "projects/app")
    write: dict[str, Any] = {"host_path": "~/projects/app", "readonly": False}
    assert ask(home, **write) == Granted(app, "/workspace/extra/app", readonly=False)
    assert ask(home, host_path="~/projects/app") == Granted(app, "/workspace/extra/app", readonly=True)
    assert ask(home, **write, is_main=False) == Granted(app, "/workspace/extra/app", readonly=True)
    assert ask(home, host_path="~/docs", readonly=False) == Granted(
        str(home / "docs"), "/workspace/extra/docs", readonly=True
    )


def test_links_count_as_what_they_point_to(home: Path) -> None:
    app = str(home / "projects/app")
    assert ask(home, host_path="~/projects/link-in") == Granted(app, "/workspace/extra/link-in", readonly=True)
    text = LIST.replace("~/projects", "~/plink")
    assert ask(home, text, host_path="~/projects/app") == Granted(app, "/workspace/extra/app", readonly=True)


@pytest.mark.parametrize("name", [".SSH", "Credentials", "ID_RSA.pub", "my.Env", "Library/Keychains"])
def test_capitals_hide_no_credentials(home: Path, name: str) -> None:
    (home / "projects" / name).mkdir(parents=True)
    assert isinstance(ask(home, host_path=f"~/projects/{name}"), Refusal)


def test_a_list_that_can_not_be_read_allows_nothing_and_is_told(tmp_path: Path) -> None:
    kept = home_from({"MICROCLAW_HOME": str(tmp_path / "h")})
    kept.create()
    allow_list_path(kept).mkdir()
    told: list[str] = []
    assert extra_mounts(kept, [Wanted("/srv")], is_main=True, trouble=told.append) == []
    assert len(told) == 1 and "can't be read" in told[0]


def test_an_empty_pattern_blocks_everything(home: Path) -> None:
    text = LIST.replace('"blockedPatterns": []', '"blockedPatterns": [""]')
    assert isinstance(ask(home, text, host_path="~/projects/app"), Refusal)


def test_a_name_says_one_place(home: Path) -> None:
    for name in ("a//b", "./a/b", "a/b/"):
        found = ask(home, host_path="~/projects/app", container_path=name)
        assert found == Granted(str(home / "projects/app"), "/workspace/extra/a/b", readonly=True)


def test_what_a_run_may_not_have_is_left_out_and_the_rest_is_mounted(tmp_path: Path) -> None:
    """One bad folder must not cost the group every run."""
    kept = home_from({"MICROCLAW_HOME": str(tmp_path / "h")})
    kept.create()
    for name in ("a", "b", "odd\x07name"):
        (tmp_path / name).mkdir()
    allow_list_path(kept).write_text(json.dumps({
        "allowedRoots": [{"path": str(tmp_path)}], "blockedPatterns": [], "nonMainReadOnly": True,
    }))
    wanted = [
        Wanted(str(tmp_path / "a"), "x"), Wanted(str(tmp_path / "b"), "x/inside"), Wanted(str(tmp_path / "b"), "x"),
        Wanted(str(kept.secrets), "keys"), Wanted(str(tmp_path), "all"), Wanted(str(tmp_path / "odd\x07name"), "odd"),
        Wanted(str(tmp_path / "b"), "y"),
    ]
    told: list[str] = []
    beside = group_mounts(kept, "fam", is_main=False, project=())
    found = extra_mounts(
        kept, wanted, is_main=True, trouble=told.append, beside=beside, closed=closed_folders(kept),
    )
    assert [mount.target for mount in found] == ["/workspace/extra/x", "/workspace/extra/y"]
    assert len(told) == 5 and all(line.startswith("a folder is not mounted: ") for line in told)
    check_mounts([*beside, *found], closed_folders(kept))


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c.d", " "]), max_size=6))
def test_whatever_is_asked_for_is_below_a_root_and_below_extra(parts: list[str]) -> None:
    allowed = AllowList((Root("/r"),), (), True)
    granted = decide(
        Wanted("/r/" + "/".join(parts)), allowed, is_main=True, home="/h", resolve=os.path.normpath,
    )
    if isinstance(granted, Granted):
        assert granted.host_path == "/r" or granted.host_path.startswith("/r/")
        assert os.path.normpath(granted.container_path).startswith("/workspace/extra/")
        assert granted.readonly
