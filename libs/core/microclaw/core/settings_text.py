"""The commented configuration file, made from the settings' types."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from microclaw.core.settings import Section

_HEAD = """\
# MicroClaw's configuration (TOML). What is commented out is the default.
# `microclaw config check` checks it. What runs reads it at its next start: `microclaw down`, `microclaw up`.
# "${NAME}" in a text is replaced by that environment variable. No keys here: `key` is the *name* of a secret.

"""


def commented(settings: type[Section]) -> str:
    """Every table and key with its description and default."""
    parts = [_HEAD]
    for table in msgspec.structs.fields(settings):
        parts.append(f"[{table.name}]  # {(table.type.__doc__ or '').strip()}\n")
        for field in msgspec.structs.fields(table.type):
            default = f"#{field.name} = {toml(field.default)}\n" if field.default is not msgspec.NODEFAULT else ""
            parts.append(f"# {describe(field.type)}\n{default}")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


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
