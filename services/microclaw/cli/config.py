"""`microclaw config path|check|show|get|set|schema`: the configuration file."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from microclaw.cli.config_file import write
from microclaw.cli.context import Context
from microclaw.core.errors import UsageError
from microclaw.core.settings import Settings, default_text, load, parse, schema
from microclaw.core.settings_errors import line_of, nearest
from microclaw.core.settings_section import Section
from microclaw.core.settings_text import toml


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("path", help="where the file is")
    actions.add_parser("check", help="whether it is right; exit code 2 if not")
    actions.add_parser("show", help="every setting in force")
    get = actions.add_parser("get", help="one setting in force")
    get.add_argument("key", metavar="TABLE.KEY")
    change = actions.add_parser("set", help="change one setting in the file")
    change.add_argument("key", metavar="TABLE.KEY")
    change.add_argument("value", metavar="VALUE", help='a TOML value; a text may be written without quotes')
    actions.add_parser("schema", help="the file's JSON schema")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises UsageError: the file, the key or the value is bad."""
    path = context.home.config
    match options.action:
        case "path":
            context.dump({"path": str(path)}) if context.json else print(path)
        case "schema":
            context.dump(schema())
        case "check":
            load(path, context.env)
            where = str(path) if path.exists() else f"{path} does not exist: the defaults hold"
            context.dump({"ok": True, "path": str(path)}) if context.json else context.say(f"{where}: all right")
        case "show":
            _show(context)
        case "get":
            value = msgspec.to_builtins(_value(context.settings, options.key))
            if context.json:
                context.dump(value)
            else:
                print("\n".join(value) if isinstance(value, list) else value)
        case "set":
            _set(context, options.key, options.value)
    return 0


def _show(context: Context) -> None:
    settings = msgspec.to_builtins(context.settings)
    if context.json:
        context.dump(settings)
        return
    for table, keys in settings.items():
        _show_table(table, keys)


def _show_table(table: str, keys: dict[str, object]) -> None:
    print(f"[{table}]")
    inner = {key: value for key, value in keys.items() if isinstance(value, dict)}
    for key, value in keys.items():
        if key not in inner:
            print(f"{key} = {toml(value)}")
    for key, value in inner.items():
        _show_table(f"{table}.{key}", value)


def _values(section: Section, path: str = "") -> dict[str, object]:
    """Every key with its whole name, and what it is."""
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(type(section)):
        value, name = getattr(section, field.name), f"{path}{field.name}"
        found |= _values(value, f"{name}.") if isinstance(value, Section) else {name: value}
    return found


def _value(settings: Settings, key: str) -> object:
    known = _values(settings)
    if inner := [name for name in known if name.startswith(f"{key}.")]:
        raise UsageError(f"{key} is a table; its keys: {', '.join(inner)}")
    if key not in known:
        raise UsageError(f"{key} is not a known key{nearest(key, known)}")
    return known[key]


def _set(context: Context, key: str, value: str) -> None:
    settings = set_values(context, {key: value})
    shown = msgspec.to_builtins(_value(settings, key))
    if context.json:
        context.dump({"key": key, "value": shown})
    else:
        context.say(f"{key} = {toml(shown)}; it counts from the services' next start: `microclaw restart`")


def set_values(context: Context, values: Mapping[str, str]) -> Settings:
    """Change settings in the file, all or none; returns what is in force then, in `context` too.

    :raises UsageError: a key or a value is bad, or somebody else changed the file meanwhile.
    """
    path = context.home.config
    try:
        seen = path.read_text(encoding="utf-8") if path.exists() else None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    text = default_text() if seen is None else seen
    for key, value in values.items():
        text = changed(text, key, toml_value(value, text=isinstance(_value(Settings(), key), str)))
    settings = parse(text, context.env, where=str(path))
    context.home.create()
    write(path, text, seen)
    context.settings = settings
    return settings


def toml_value(value: str, *, text: bool) -> str:
    """VALUE as it is written to the file: TOML as it stands, else a text."""
    try:
        found: dict[str, Any] = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return toml(value)
    if len(found) == 1 and isinstance(found["value"], str if text else object):
        return value.strip()
    return toml(value)


def changed(text: str, key: str, value: str) -> str:
    """The file's text with `key` set to `value` (TOML), comments and the rest as they were."""
    table, name = key.rsplit(".", 1)
    lines = text.splitlines()
    number = line_of(text, (*table.split("."), name))
    if number is not None and re.match(r"\s*\[", lines[number - 1]) is None:
        if not _whole(lines[number - 1]):
            raise UsageError(f"{key} stretches over several lines in the file; change it with an editor")
        lines[number - 1] = re.sub(r"=.*", lambda _found: f"= {value}", lines[number - 1], count=1)
    elif number is not None and number == line_of(text, tuple(table.split("."))):
        end = next((at for at in range(number, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
        commented = next((at for at in range(number, end) if re.match(rf"\s*#\s*{name}\s*=", lines[at])), None)
        if commented is not None:
            lines[commented] = f"{name} = {value}"
        else:
            lines.insert(number, f"{name} = {value}")
    else:
        lines += ["", f"[{table}]", f"{name} = {value}"]
    return "\n".join(lines) + "\n"


def _whole(line: str) -> bool:
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return False
    return True
