"""docs/kinds.md, made from the kinds themselves: `python -m microclaw.core.kinds_page > docs/kinds.md`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import msgspec

from microclaw.core import kinds

_HEAD = """\
# Message kinds
Made from `libs/core/microclaw/core/kinds.py` by `python -m microclaw.core.kinds_page`; a test sees that it is fresh.
Times end in `_ms` and are Unix milliseconds. A field with a default may be left out.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for subject, kind in kinds.KINDS.items():
        parts.append(f"\n## `{subject}`\n{_text(kind)}\n\n{_table(kind)}\n")
    parts.append("\n## Parts of them\n")
    parts.extend(f"\n### `{part.__name__}`\n{_text(part)}\n\n{_table(part)}\n" for part in _parts())
    return "".join(parts)


def _text(struct: type[msgspec.Struct]) -> str:
    return inspect.cleandoc(struct.__doc__ or "")


def _table(struct: type[msgspec.Struct]) -> str:
    comments = _comments(struct)
    rows = ["| field | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        made = field.default is msgspec.NODEFAULT
        default = "" if field.required else "empty" if made else f"`{field.default!r}`"
        rows.append(f"| `{field.name}` | {_type(struct, field.name)} | {default} | {comments.get(field.name, '')} |")
    return "\n".join(rows)


def _type(struct: type[msgspec.Struct], name: str) -> str:
    for base in struct.__mro__:
        if name in (written := inspect.get_annotations(base)):
            return f"`{written[name]}`".replace("|", "\\|")
    raise LookupError(name)


def _comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The `#:` comment above each field, from the source."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in inspect.getsource(struct).splitlines():
        stripped = line.strip()
        if stripped.startswith("#:"):
            comment.append(stripped[2:].strip())
        else:
            if comment and (field := re.match(r"(\w+)\s*:", stripped)):
                found[field[1]] = " ".join(comment)
            comment = []
    return found


def _parts() -> Iterator[type[msgspec.Struct]]:
    for value in vars(kinds).values():
        if (
            inspect.isclass(value) and issubclass(value, msgspec.Struct) and value.__module__ == kinds.__name__
            and not issubclass(value, kinds.Payload)
        ):
            yield value


if __name__ == "__main__":
    sys.stdout.write(page())
