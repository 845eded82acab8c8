from __future__ import annotations

import os
from pathlib import Path

import pytest

from microclaw.core.errors import UnhealthyError
from microclaw.core.home import RUN_DIR_CHARS_MAX, home_from


def test_everything_is_in_the_named_folder(tmp_path: Path) -> None:
    home = home_from({"MICROCLAW_HOME": str(tmp_path)})
    assert home.config == tmp_path / "config.toml"
    assert home.data == tmp_path / "data"


def test_without_a_name_xdg_says_where(tmp_path: Path) -> None:
    assert home_from({"HOME": "/h"}).config == Path("/h/.config/microclaw/config.toml")
    assert home_from({"HOME": "/h"}).data == Path("/h/.local/state/microclaw/data")
    home = home_from({"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"})
    assert (home.config, home.data) == (Path("/c/microclaw/config.toml"), Path("/s/microclaw/data"))
    assert home_from({"HOME": "/h", "MICROCLAW_CONFIG": "/x/y.toml"}).config == Path("/x/y.toml")


def test_sockets_have_short_paths_however_long_the_home_is() -> None:
    homes = [home_from({"MICROCLAW_HOME": f"/{'x' * 80}/{name}"}) for name in ("a", "b")]
    assert all(len(str(home.run)) <= RUN_DIR_CHARS_MAX for home in homes)
    assert homes[0].run != homes[1].run


def test_folders_are_made_private_with_all_that_was_missing_above_them(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        home = home_from({"MICROCLAW_HOME": str(tmp_path / "new" / "home")})
        home.create()
    finally:
        os.umask(before)
    for folder in (tmp_path / "new", *home.private):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert home.troubles() == []


def test_a_folder_that_others_can_read_is_refused_with_the_command_that_closes_it(tmp_path: Path) -> None:
    home = home_from({"MICROCLAW_HOME": str(tmp_path / "h")})
    home.create()
    home.secrets.chmod(0o755)
    with pytest.raises(UnhealthyError, match=f"chmod 700 {home.secrets}"):
        home.create()
