from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from microclaw.cli.config import changed, toml_value
from microclaw.cli.config_file import OLD_VERSIONS_COUNT, write
from microclaw.core.errors import UsageError
from microclaw.core.settings import Settings, default_text, parse
from microclaw.core.settings_section import Section
from microclaw.core.settings_text import toml


def test_setting_a_commented_key_puts_it_in_its_place() -> None:
    text = changed(default_text(), "queue.max_concurrent", "3")
    assert parse(text, {}).queue.max_concurrent == 3
    assert len(text.splitlines()) == len(default_text().splitlines())


def keys(section: type[Section], above: str = "") -> Iterator[tuple[str, str]]:
    """Every setting that has a default, and that default as TOML."""
    for field in msgspec.structs.fields(section):
        if isinstance(field.default, Section):
            yield from keys(type(field.default), f"{above}{field.name}.")
        elif field.default is not msgspec.NODEFAULT and above:
            yield f"{above}{field.name}", toml(field.default)


def test_every_setting_of_a_new_file_is_set_in_its_place_also_those_of_tables_in_tables() -> None:
    new = default_text()
    for key, value in keys(Settings):
        text = changed(new, key, value)
        assert len(text.splitlines()) == len(new.splitlines()) and parse(text, {}) == Settings(), key
    all_of_email = new
    for key, value in (("address", '"a@b"'), ("imap_host", '"h"'), ("enabled", "true")):
        all_of_email = changed(all_of_email, f"channels.email.{key}", value)
    assert parse(all_of_email, {}).channels.enabled() == ("email",)


def test_setting_keeps_comments_and_everything_else() -> None:
    text = '# mine\n[queue]\nmax_concurrent = 2 # few\n\n[assistant]\nname = "A"\n'
    assert changed(text, "assistant.name", '"B"') == text.replace('"A"', '"B"')


def test_setting_a_key_of_a_table_that_is_not_there_adds_the_table() -> None:
    assert parse(changed("", "sandbox.cpus", "2.0"), {}).sandbox.cpus == 2.0


def test_setting_a_value_with_a_backslash_writes_it_as_it_is() -> None:
    assert changed('[assistant]\nname = "A"\n', "assistant.name", '"a\\\\1"') == '[assistant]\nname = "a\\\\1"\n'


def test_a_value_over_several_lines_is_left_to_an_editor() -> None:
    with pytest.raises(UsageError, match="with an editor"):
        changed('[egress]\nallow = [\n "a",\n]\n', "egress.allow", "[]")


@pytest.mark.parametrize(
    ("value", "text", "written"),
    [("5", False, "5"), ("Bob", True, '"Bob"'), ('"Bob"', True, '"Bob"'), ("5", True, '"5"'), ("[]", False, "[]")],
)
def test_a_value_is_toml_or_else_a_text(value: str, text: bool, written: str) -> None:
    assert toml_value(value, text=text) == written


def test_a_value_can_not_smuggle_a_second_key_in() -> None:
    assert toml_value("5\nother = 6", text=False) == '"5\\nother = 6"'


def test_older_versions_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write(path, "# 0\n", None)
    for number in range(1, 9):
        write(path, f"# {number}\n", f"# {number - 1}\n")
    assert path.read_text() == "# 8\n"
    assert path.stat().st_mode & 0o777 == 0o600
    older = sorted(tmp_path.glob("config.toml.*"))
    assert [each.read_text() for each in older] == [f"# {8 - back}\n" for back in range(1, OLD_VERSIONS_COUNT + 1)]


def test_a_change_by_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# theirs\n")
    with pytest.raises(UsageError, match="changed by somebody else"):
        write(path, "# mine\n", "# what I read\n")
    assert path.read_text() == "# theirs\n"
    assert list(tmp_path.iterdir()) == [path]
