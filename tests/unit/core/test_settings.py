from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.errors import UsageError
from microclaw.core.settings import Settings, default_text, load, parse, schema
from microclaw.core.settings_section import Section


def refused(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as error:
        parse(text, env or {}, where="c.toml")
    said = str(error.value)
    assert "\n" not in said
    return said


def test_an_empty_file_means_the_defaults() -> None:
    assert parse("", {}) == Settings()


def test_the_commented_default_file_means_the_defaults_with_and_without_its_comment_marks() -> None:
    text = default_text()
    assert parse(text, {}) == Settings()
    assert parse(re.sub(r"(?m)^#(\w+ = )", r"\1", text), {}) == Settings()


def test_the_default_file_says_every_key() -> None:
    uncommented = tomllib.loads(re.sub(r"(?m)^#(\w+ = )", r"\1", default_text()))
    settings = msgspec.json.decode(msgspec.json.encode(Settings()))
    # A table of free names has no default to show; its description does.
    assert settings["bus"].pop("rights") == settings["senders"].pop("unknown") == {}
    assert settings["budget"].pop("groups") == settings["budget"].pop("prices") == {}
    assert uncommented == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queue]\nmax_concurent = 3", "c.toml:2: queue.max_concurent is not a known key; did you mean max_concurrent"),
        ("[queues]\nx = 1", "c.toml:1: queues is not a known table; did you mean queue?"),
        ("queue.max_concurent = 3", "c.toml:1: queue.max_concurent is not a known key"),
        ('[queue]\n\nmax_concurrent = "5"', "c.toml:3: queue.max_concurrent is '5', wanted a whole number"),
        ("[queue]\nmax_concurrent = 0", "c.toml:2: queue.max_concurrent is 0, wanted a whole number >= 1"),
        ("[queue]\nmax_concurrent = true", "is true, wanted a whole number"),
        ("[sandbox]\nmemory_mb = 63", "sandbox.memory_mb is 63, wanted a whole number >= 64"),
        ("[sandbox]\ncpus = nan", "sandbox.cpus is nan, wanted a number"),
        ('[sandbox]\nbackend = "none"', "wanted one of apple, auto, bubblewrap, docker, podman"),
        ('[model]\nbackend = "antropic"', "did you mean anthropic?"),
        ('[model]\nbackend = "openai"', "model.name is empty, but backend = 'openai' needs the model's name"),
        ('[model]\nbase_url = "ftp://x"', "model.base_url must be http(s)://"),
        ('[model]\nbase_url = "https://user:pass@x"', "without user and password"),
        ('[assistant]\nname = ""', "assistant.name is '', wanted a text that is not empty"),
        ('[assistant]\ntimezone = "Europe/Berln"', "did you mean Europe/Berlin?"),
        ('[assistant]\ntimezone = "/etc/passwd"', "wanted the name of a time zone"),
        ('[egress]\nallow = ["http://x"]', "egress.allow has 'http://x': 'http://x' has a / in it"),
        ('[egress]\nallow = ["x:99999"]', "egress.allow has 'x:99999'"),
        ('[egress]\nallow = ["x.example wss"]', "behind the host only web_fetch or bash, websocket, opaque, each once"),
        ('[egress]\nallow = ["x.example web_fetch websocket"]', "web_fetch only reads pages"),
        ('[egress]\nallow = "x"', 'wanted a list of texts: ["…"]'),
        ('[console]\nchat = "telegram:1"', "console.chat is 'telegram:1', wanted console:NAME"),
        ('[bus.rights.me]\npublis = ["x"]', "c.toml:2: bus.rights.me.publis is not a known key; did you mean publish?"),
        ("[bus.rights.me]\npublish = 3", "bus.rights.me.publish is 3, wanted a list of texts"),
        ("queue = 3", "c.toml:1: queue is 3, wanted a table: [queue]"),
        ("[queue\n", "c.toml:1: not TOML"),
        ("[queue]\n[queue]", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_line_the_key_and_what_is_wanted(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize("key", ["sk-ant-api03-abcdef", "AKIAIOSFODNN7EXAMPLE", "abcdefabcdefabcdefabcdefabcdef12"])
def test_a_key_written_into_the_file_is_refused_and_never_repeated(key: str) -> None:
    said = refused(f'[model]\nkey = "{key}"')
    assert "must be the name of a secret" in said
    assert key not in said


def test_a_reference_is_replaced_by_the_variable() -> None:
    assert parse('[model]\nname = "${M}-x"', {"M": "m"}).model.name == "m-x"


def test_a_reference_inside_a_list_is_replaced() -> None:
    assert parse('[egress]\nallow = ["${H}"]', {"H": "a.example"}).egress.allow == ("a.example",)


def test_a_missing_variable_is_refused_by_its_name() -> None:
    assert "c.toml:2: model.name needs the environment variable M" in refused('[model]\nname = "${M}"')


def test_an_unfinished_reference_is_refused_and_a_doubled_dollar_is_not_a_reference() -> None:
    assert "model.name has ${ without NAME} behind it" in refused('[model]\nname = "${"')
    assert parse('[model]\nname = "$${M}"', {}).model.name == "${M}"


def test_a_missing_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml", {}) == Settings()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_is_refused_with_the_command_that_closes_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        load(path, {})


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_that_only_its_owner_can_change_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[queue]\nmax_concurrent = 2\n")
    path.chmod(mode)
    assert load(path, {}).queue.max_concurrent == 2


def test_a_folder_and_text_that_is_not_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path, {})
    path = tmp_path / "config.toml"
    path.write_bytes(b"# \xff\xfe\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="not UTF-8"):
        load(path, {})


def test_the_schema_describes_every_key() -> None:
    definitions = schema()["$defs"]
    assert isinstance(definitions, dict)
    tables = [field.type for field in msgspec.structs.fields(Settings)]
    for table in tables:
        properties = definitions[table.__name__]["properties"]
        assert set(properties) == {field.name for field in msgspec.structs.fields(table)}
        for field in msgspec.structs.fields(table):
            if isinstance(field.default, Section):
                # A table in a table: what it is its own description says.
                assert definitions[field.type.__name__]["description"]
                tables.append(field.type)
            else:
                assert properties[field.name].get("description"), f"{table.__name__}.{field.name} has no description"


@pytest.mark.parametrize(("channel", "key"), [("telegram", "token"), ("discord", "token"), ("email", "password")])
def test_a_connectors_secret_written_into_the_file_is_refused_and_never_repeated(channel: str, key: str) -> None:
    secret = "123456:AAbbccddeeffgghhiijjkkllmmnnooppqqrr"
    with pytest.raises(UsageError, match=f"channels.{channel}.{key} must be the name of a secret") as refused:
        parse(f'[channels.{channel}]\n{key} = "{secret}"\n', {})
    assert secret not in str(refused.value)


def test_an_enabled_mailbox_needs_its_address_and_server() -> None:
    with pytest.raises(UsageError, match=r"channels\.email\.address is empty"):
        parse("[channels.email]\nenabled = true\n", {})
    settings = parse('[channels.email]\nenabled = true\naddress = "a@b.c"\nimap_host = "b.c"\n', {})
    assert settings.channels.enabled() == ("email",)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_one_clear_line(text: str) -> None:
    try:
        parse(text, {})
    except UsageError as error:
        assert "config.toml" in str(error)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_keys = sorted({f"{t.name}.{f.name}" for t in msgspec.structs.fields(Settings) for f in msgspec.structs.fields(t.type)})


@given(st.sampled_from(_keys), _values)
def test_any_value_of_any_key_is_taken_or_refused_by_the_keys_name(key: str, value: object) -> None:
    from microclaw.core.settings_text import toml

    written = "{}" if value is None else toml(value)
    try:
        tomllib.loads(f"x = {written}")
    except tomllib.TOMLDecodeError:
        return
    try:
        parse(f"{key} = {written}", {})
    except UsageError as error:
        assert key.split(".")[0] in str(error)
