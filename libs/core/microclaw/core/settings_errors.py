"""What is wrong in a configuration file, said so that a person finds and mends it.

Imported only when something is wrong.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any
from zoneinfo import available_timezones

import msgspec

from microclaw.core.errors import UsageError
from microclaw.core.settings import UNKNOWN_ZONE, Settings

#: How much of a found value an error repeats, characters.
VALUE_CHARS_MAX = 60


def syntax(where: str, text: str, error: tomllib.TOMLDecodeError) -> UsageError:
    """The file is not TOML."""
    found = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    why = re.sub(r" \(at .*\)$", "", str(error))
    line = int(found[1]) if found and found[1] else text.count("\n") + 1
    return UsageError(f"{where}:{line}: not TOML: {why}; mend the line, then run `microclaw config check`")


def explain(
    where: str, text: str, tables: Mapping[str, Any], wrong: str | tuple[tuple[str, ...], str]
) -> UsageError:
    """The file is TOML but no configuration. `wrong` is msgspec's text, or a path and what is wrong there."""
    if isinstance(wrong, str):
        path, why = _read(wrong, tables)
    else:
        path, why = wrong
        if why == UNKNOWN_ZONE:
            why = _zone(str(tables["assistant"]["timezone"]))
    line = line_of(text, path)
    return UsageError(f"{where}{f':{line}' if line else ''}: {'.'.join(path) or 'the file'} {why}")


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line that sets this key, or opens this table; None when it is written in a way not looked for."""
    table: tuple[str, ...] = ()
    best: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if table == path[: len(table)]:
                best = best or number
            if table == path:
                return number
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            full = (*table, *(part.strip("\"'") for part in key[1].split(".")))
            if full == path:
                return number
    return best


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or what there is to choose from."""
    names = sorted(known)
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}"


def _read(wrong: str, tables: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    at = re.search(r" - at `\$\.?([^`]*)`$", wrong)
    path = tuple(re.sub(r"\[.*?\]", "", at[1]).split(".")) if at and at[1] else ()
    what = wrong[: at.start()] if at else wrong
    if unknown := re.search(r"unknown field `(.*)`", what):
        known = _keys(path)
        return (*path, unknown[1]), f"is not a known {'key' if path else 'table'}{nearest(unknown[1], known)}"
    found = tables
    for step in path:
        found = found[step] if isinstance(found, dict) else found
    if chosen := _choices(path):
        return path, f"is {show(found, path)}, wanted one of {', '.join(chosen)}{_hint(found, chosen)}"
    if re.search(r"Expected `object`", what):
        return path, f"is {show(found, path)}, wanted a table: [{'.'.join(path)}]"
    wanted = re.sub(r"^Expected |, got .*$", "", what).replace("`", "")
    if "matching regex" in wanted and isinstance(found, str):
        wanted = _PATTERNS.get(path, wanted)
    if wanted == "str of length >= 1":
        wanted = "a text that is not empty"
    return path, f"is {show(found, path)}, wanted {re.sub(r'^(int|float|str|bool|array)', _word, wanted)}"


def _word(kind: re.Match[str]) -> str:
    return {
        "int": "a whole number", "float": "a number", "str": "a text in quotes", "bool": "true or false",
        "array": 'a list of texts: ["…"]',
    }[kind[0]]


_PATTERNS = {
    ("assistant", "name"): "a name without space around it",
    ("sandbox", "image"): "an image's name",
    ("console", "chat"): "console:NAME (letters, digits, - _ .)",
}


def show(value: object, path: tuple[str, ...]) -> str:
    """A found value as an error repeats it; what may be a key is never repeated."""
    if path == ("model", "key"):
        return f"a {type(value).__name__}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "…"


def _fields(path: tuple[str, ...]) -> dict[str, Any]:
    """The fields of the table at `path`, name → type."""
    fields = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    return {field.name: field.type for field in msgspec.structs.fields(fields[path[0]])} if path else fields


def _keys(path: tuple[str, ...]) -> list[str]:
    return list(_fields(path))


def _choices(path: tuple[str, ...]) -> list[str]:
    if len(path) != 2:
        return []
    kind = msgspec.inspect.type_info(_fields(path[:1])[path[1]])
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    return [str(value) for value in kind.values] if isinstance(kind, msgspec.inspect.LiteralType) else []


def _hint(found: object, chosen: list[str]) -> str:
    close = difflib.get_close_matches(str(found).lower(), chosen, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _zone(found: str) -> str:
    zones = available_timezones()
    close = difflib.get_close_matches(found, zones, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ", like Europe/Berlin"
    return f"is {show(found, ())}, wanted the name of a time zone{hint}"
