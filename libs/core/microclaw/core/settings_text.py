"""The commented configuration file, made from the settings' types."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from microclaw.core.settings_section import Section

_HEAD = """\
# MicroClaw's configuration (TOML). What is commented out is the default.
# `microclaw config check` checks it. What runs reads it at its next start: `microclaw restart`.
# "${NAME}" in a text is replaced by that environment variable. No keys here: `key` is the *name* of a secret.

"""


def commented(settings: type[Section]) -> str:
    """Every table and key with its description and default."""
    tables = [_table(table.name, table.type) for table in msgspec.structs.fields(settings)]
    return _HEAD + "\n".join(tables)


def _table(name: str, section: type[Section]) -> str:
    """One table, then the tables in it."""
    lines, inner = [f"[{name}]  # {(section.__doc__ or '').strip()}\n"], []
    for field in msgspec.structs.fields(section):
        if isinstance(field.default, Section):
            inner.append("\n" + _table(f"{name}.{field.name}", type(field.default)))
            continue
        default = f"#{field.name} = {toml(field.default)}\n" if field.default is not msgspec.NODEFAULT else ""
        lines.append(f"# {describe(field.type)}\n{default}")
    return "".join([*lines, *inner])


def describe(kind: Any) -> str:
    """The description of a field, with its choices."""
    info = msgspec.inspect.type_info(kind)
    text = ""
    while isinstance(info, msgspec.inspect.Metadata):
        text = str((info.extra_json_schema or {}).get("description", text))
        info = info.type
    if isinstance(info, msgspec.inspect.LiteralType):
        text += " One of: " + ", ".join(str(value) for value in info.values)
    return text


def toml(value: object) -> str:
    """A default as TOML writes it: text, number, truth or list of texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    return str(value)
