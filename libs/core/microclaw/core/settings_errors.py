"""What is wrong in a configuration file, said so that a person finds and mends it.

Imported only when something is wrong.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin
from zoneinfo import available_timezones

import msgspec

from microclaw.core.errors import UsageError
from microclaw.core.settings import UNKNOWN_ZONE, Settings

#: How much of a found value an error repeats, characters.
VALUE_CHARS_MAX = 60
#: How many known names an error lists.
KNOWN_COUNT_MAX = 20


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
    """The line that sets this key, or opens this table, or else the innermost table around it that is there; None when
    it is written in a way not looked for."""
    table: tuple[str, ...] = ()
    best: int | None = None
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if table == path[: len(table)] and len(table) > depth:
                best, depth = number, len(table)
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
    if close:
        return f"; did you mean {close[0]}?"
    few = len(names) <= KNOWN_COUNT_MAX
    return f"; known here: {', '.join(names)}" if few else "; `microclaw config show` lists all"


def _read(wrong: str, tables: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    at = re.search(r" - at `\$\.?([^`]*)`$", wrong)
    path, found, kind = _descend(re.findall(r"\w+|\[\.\.\.\]", re.sub(r"\[\d+\]", "", at[1])) if at else [], tables)
    what = wrong[: at.start()] if at else wrong
    if unknown := re.search(r"unknown field `(.*)`", what):
        known = [field.name for field in msgspec.structs.fields(kind)]
        return (*path, unknown[1]), f"is not a known {'key' if path else 'table'}{nearest(unknown[1], known)}"
    if chosen := _choices(kind):
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


#: Where a key may have been written instead of its name.
NAMES_OF_SECRETS = frozenset({
    ("model", "key"), ("channels", "telegram", "token"), ("channels", "discord", "token"),
    ("channels", "email", "password"),
})

_PATTERNS: dict[tuple[str, ...], str] = {
    ("assistant", "name"): "a name without space around it",
    ("sandbox", "image"): "an image's name",
    ("console", "chat"): "console:NAME (letters, digits, - _ .)",
}


def show(value: object, path: tuple[str, ...]) -> str:
    """A found value as an error repeats it; what may be a key is never repeated."""
    if path in NAMES_OF_SECRETS:
        return f"a {type(value).__name__}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "…"


def _descend(steps: list[str], tables: Mapping[str, Any]) -> tuple[tuple[str, ...], Any, Any]:
    """Where the error is: its path, the value there, its type. msgspec says `[...]` for some key of a table with free
    names: it is the first one whose value does not convert."""
    path: list[str] = []
    found: Any = tables
    kind: Any = Settings
    for step in steps:
        if step == "[...]":
            kind = get_args(kind)[-1]
            step = next((name for name, value in found.items() if not _converts(value, kind)), step)
        else:
            kind = next(_bare(field.type) for field in msgspec.structs.fields(kind) if field.name == step)
        path.append(step)
        found = found[step]
    return tuple(path), found, kind


def _converts(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _bare(kind: Any) -> Any:
    """The type without what `Annotated` says about it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _choices(kind: Any) -> list[str]:
    return sorted(map(str, get_args(kind))) if get_origin(kind) is Literal else []


def _hint(found: object, chosen: list[str]) -> str:
    close = difflib.get_close_matches(str(found).lower(), chosen, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _zone(found: str) -> str:
    zones = available_timezones()
    close = difflib.get_close_matches(found, zones, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ", like Europe/Berlin"
    return f"is {show(found, ())}, wanted the name of a time zone{hint}"
