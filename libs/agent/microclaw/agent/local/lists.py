"""Notes, the to-do list and the files of the group's folder. The lists are plain Markdown files anybody may edit."""

from __future__ import annotations

import re

from microclaw.agent.conversation import Result
from microclaw.agent.local.skills import Asked, Skill
from microclaw.agent.plan import Plan, Want

NOTES = "notes.md"
TODOS = "todo.md"
#: A longer file is shown only in part, in characters.
SHOWN_CHARS_MAX = 4000

_ITEM = re.compile(r"^[-*] (?P<box>\[[ xX]\] )?(?P<text>.*)$")


def _lines(result: Result) -> list[str]:
    """The file's lines; a file that is not there yet has none."""
    return result.text.splitlines() if result.ok else []


def _items(lines: list[str]) -> list[tuple[int, re.Match[str]]]:
    """The list's items: index of the line, and what is in it."""
    return [(index, match) for index, line in enumerate(lines) if (match := _ITEM.match(line))]


def _write(name: str, lines: list[str]) -> Want:
    return Want("write_file", {"path": name, "content": "".join(f"{line}\n" for line in lines)})


def _add(name: str, mark: str, said: str) -> Skill:
    def skill(_: Asked, match: re.Match[str]) -> Plan:
        text = " ".join(match["text"].split())
        lines = _lines((yield Want("read_file", {"path": name})))
        result = yield _write(name, [*lines, f"- {mark}{text}"])
        return f"{said}: {text}" if result.ok else f"I could not write it down: {result.text}"

    return skill


def _show(name: str, nothing: str) -> Skill:
    def skill(_: Asked, __: re.Match[str]) -> Plan:
        lines = _lines((yield Want("read_file", {"path": name})))
        items = _items(lines)
        return "\n".join(
            f"{number}. {_box(item)}{item['text']}" for number, (_index, item) in enumerate(items, start=1)
        ) or nothing

    return skill


def _box(item: re.Match[str]) -> str:
    return "" if not item["box"] else "✓ " if item["box"][1] in "xX" else "○ "


def _change(name: str, verb: str) -> Skill:
    """`verb` is `done` (tick it off) or `delete`."""

    def skill(_: Asked, match: re.Match[str]) -> Plan:
        lines = _lines((yield Want("read_file", {"path": name})))
        items = _items(lines)
        number = int(match["number"])
        if not 1 <= number <= len(items):
            return f"There is no number {number}: there {'is' if len(items) == 1 else 'are'} {len(items)}."
        index, item = items[number - 1]
        lines[index : index + 1] = [f"- [x] {item['text']}"] if verb == "done" else []
        result = yield _write(name, lines)
        if not result.ok:
            return f"I could not change it: {result.text}"
        return f"{'Done' if verb == 'done' else 'Deleted'}: {item['text']}"

    return skill


def _list_files(_: Asked, __: re.Match[str]) -> Plan:
    result = yield Want("list_files", {"path": ".", "pattern": "*"})
    return result.text if result.ok else f"I could not look: {result.text}"


def _show_file(_: Asked, match: re.Match[str]) -> Plan:
    result = yield Want("read_file", {"path": match["path"]})
    if not result.ok:
        return result.text.removeprefix("error: ")
    text = result.text.rstrip("\n") or "[empty]"
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}\n… ({len(text)} characters in all)"


_END = r"\s*[.!?]*$"
SKILLS: tuple[tuple[str, Skill], ...] = (
    (r"(?:show|list|read)(?: me)?(?: all)?(?: my| the)? notes" + _END, _show(NOTES, "There are no notes.")),
    (r"(?:delete|remove) note (?:number )?#?(?P<number>\d{1,6})" + _END, _change(NOTES, "delete")),
    (r"(?s)(?:take a |add a |add |make a )?note(?: that|:| to self:?)\s*(?P<text>\S.*)$", _add(NOTES, "", "Noted")),
    (r"(?:show|list)(?: me)?(?: all)?(?: my| the)? (?:to-?dos?|to-?do list)(?: list)?" + _END,
     _show(TODOS, "There is nothing to do.")),
    (r"(?:my )?(?:to-?dos?|to-?do list)\??$", _show(TODOS, "There is nothing to do.")),
    (r"(?:to-?do |mark )?done (?:with )?(?:to-?do )?(?:number )?#?(?P<number>\d{1,6})" + _END, _change(TODOS, "done")),
    (r"to-?do done #?(?P<number>\d{1,6})" + _END, _change(TODOS, "done")),
    (r"(?:delete|remove) (?:to-?do|item) (?:number )?#?(?P<number>\d{1,6})" + _END, _change(TODOS, "delete")),
    (r"to-?do (?:delete|remove) #?(?P<number>\d{1,6})" + _END, _change(TODOS, "delete")),
    (r"(?s)(?:add )?(?:a )?to-?do(?:\s+add\s+|:\s*|\s+(?!list\b))(?P<text>\S.*)$", _add(TODOS, "[ ] ", "On the list")),
    (r"(?:show|list)(?: me)?(?: the| my| all| all the)? files" + _END, _list_files),
    (r"(?:show|read|cat|open)(?: me)? (?:the )?(?:file )?(?P<path>[\w./-]+\.\w{1,8})$", _show_file),
)
