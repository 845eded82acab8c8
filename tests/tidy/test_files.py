"""House rules about files and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.checkout import text_of, tracked

LINES_MAX = 500
#: Longer files, with the reason. Nothing else may grow so long.
LONG_FILES: dict[str, str] = {}
#: Tests are lists of cases.
TEST_LINES_MAX = 900
MAIN_LINES_MAX = 60
#: Without the common run loop: their `__main__` is the program.
OWN_PROGRAMS = ("cli", "watch", "broker")
#: Made by a tool, not written.
GENERATED = re.compile(r"\.lock$|\.json$|_gen\.h$")

DUMPING_GROUNDS = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc"}

#: Paths of one machine, hosts of package registries, names of a workplace's tools. Written so as not to match itself.
FOREIGN = re.compile(
    r"/wo[r]k/(main|shared|tools|\.)|/ho[m]e/(?!me/|node/)[a-z]+/|/Use[r]s/(?!me/)[a-z]+/|pypi\.or[g]|pythonhosted\.or[g]|registry\.np[m]js"
    r"|proxy\.golan[g]\.org|/opt/(whee[l]s|pyp[i])"
)

SECRETS = re.compile(
    r"sk-an[t]-[A-Za-z0-9_-]{20,}|sk-[pro]{3}j-[A-Za-z0-9_-]{20,}|AKI[A][0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|-----BEGIN [A-Z ]*PRIVAT[E] KEY-----|xox[bap]-[0-9A-Za-z-]{20,}|\b\d{8,10}:[A-Za-z0-9_-]{35}\b"
)
#: Well-known examples, and what tests make up: they say so themselves.
NOT_SECRET = re.compile(r"EXAMPLE|canary|fake|not-a-real|placeholder|xxxx|abcdef", re.IGNORECASE)


def lines() -> Iterator[tuple[Path, int, str]]:
    for path in tracked():
        if (text := text_of(path)) is not None:
            for number, line in enumerate(text.splitlines(), 1):
                yield path, number, line


def test_no_file_is_named_after_nothing_in_particular() -> None:
    assert [str(path) for path in tracked() if path.suffix == ".py" and path.stem in DUMPING_GROUNDS] == []


def test_no_python_file_grows_too_long() -> None:
    long = {
        str(path): len(text.splitlines())
        for path in tracked()
        if path.suffix in (".py", ".c", ".h", ".sh") and not GENERATED.search(path.name)
        and (text := text_of(path)) is not None
        and len(text.splitlines()) > (TEST_LINES_MAX if path.parts[0] == "tests" else LINES_MAX)
    }
    assert {path: count for path, count in long.items() if path not in LONG_FILES} == {}
    assert [path for path in LONG_FILES if path not in long] == [], "these are short again: take them off the list"


def test_nothing_names_a_machine_a_registry_or_a_workplace() -> None:
    assert [f"{path}:{number}: {line.strip()[:100]}" for path, number, line in lines() if FOREIGN.search(line)] == []


def test_nothing_looks_like_a_secret() -> None:
    found = [
        f"{path}:{number}: {match[0][:12]}…"
        for path, number, line in lines()
        if (match := SECRETS.search(line)) and not NOT_SECRET.search(line)
    ]
    assert found == []


def test_programs_are_executable_and_nothing_else_is() -> None:
    from tests.tidy.checkout import ROOT

    wrong = []
    for path in tracked():
        with (ROOT / path).open("rb") as file:
            program = file.read(2) == b"#!"
        if program != bool((ROOT / path).stat().st_mode & 0o111):
            wrong.append(str(path))
    assert wrong == []


def test_a_services_main_only_wires_it_up() -> None:
    mains = {
        path: len((text_of(path) or "").splitlines())
        for path in tracked()
        if path.match("services/microclaw/*/__main__.py") and path.parent.name not in OWN_PROGRAMS
    }
    assert mains
    assert {str(path): count for path, count in mains.items() if count > MAIN_LINES_MAX} == {}
