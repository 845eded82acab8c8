"""What documents, configuration and code say of each other is true."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from configparser import RawConfigParser

import pytest
from tests.tidy.checkout import ROOT, text_of, tracked

from microclaw.bus.journal_schema import SCHEMA
from microclaw.bus.wire import PROTOCOL
from microclaw.cli.__main__ import parser
from microclaw.cli.commands import COMMANDS
from microclaw.core.version import VERSION

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Not services of their own.
NOT_SERVICES = {"cli"}


COMMAND = re.compile(r"(?:`|^\s*(?:\$ )?)(?:\./|\.venv/bin/)?microclaw ([a-z][^`#\n]*)", re.MULTILINE)
CHANNELS = ("telegram", "discord", "email", "imessage")
LOCKS = ("requirements.lock", "requirements/dev.lock", *(f"requirements/{name}.lock" for name in CHANNELS))


def services() -> set[str]:
    return {
        path.parent.name for path in tracked() if path.match("services/microclaw/*/__main__.py")
    } - NOT_SERVICES


def supervisord() -> RawConfigParser:
    found = RawConfigParser()
    found.read(ROOT / "deploy" / "supervisord.conf")
    return found


def programs() -> dict[str, str]:
    """Name → section."""
    return {
        section.split(":", 1)[1]: section for section in supervisord().sections()
        if section.startswith(("program:", "eventlistener:"))
    }


#: Attack cases of the bus, of sandboxes, tools and approvals that a test is named after (`docs/security.md`).
ATTACK_CASES = (*range(29, 49), *range(52, 55))


def test_every_attack_case_of_the_bus_sandboxes_and_approvals_has_a_test_of_its_number() -> None:
    named = {
        int(number) for path in tracked() if path.match("test_*.py")
        for number in re.findall(r"^(?:async )?def test_ac(\d+)_", text_of(path), re.MULTILINE)
    }
    assert set(ATTACK_CASES) <= named


def test_the_bus_s_spec_is_of_the_versions_that_the_broker_speaks() -> None:
    spec = (ROOT / "docs" / "bus.md").read_text()
    assert re.findall(r"^Protocol (\d+)\.", spec, re.MULTILINE) == [str(PROTOCOL)]
    assert re.findall(r"`user_version` (\d+)", spec) == [str(SCHEMA)]


#: What a sandbox keeps apart, item by item: 1 writing, 2 secrets, 3 network, 4 greed, 5 output, 6 grandchildren,
#: 7 traps in a folder, 8 the kernel, 9 missing folders, 10 the door opened again, 11 limits that do not hold,
#: 12 the containers of others, 13 what shows all the same.
ISOLATION = set(range(1, 14))


def test_every_item_of_isolation_has_a_test_of_its_number_on_every_backend() -> None:
    named = {
        int(number) for path in tracked() if path.match("tests/contract/sandbox/test_*.py")
        for name, given in re.findall(r"^async def (test_\w+)\((.*?)\)", text_of(path), re.MULTILINE | re.DOTALL)
        if {"backend", "run", "python"} & set(re.findall(r"\w+", given))
        for number in re.findall(r"_iso(\d+)(?=_)", name)
    }
    assert named == ISOLATION


#: Faults of the bus that a test is named after (`docs/bus.md`).
FAULTS = set(range(1, 26))


def test_every_fault_of_the_bus_has_a_test_of_its_number() -> None:
    named = {
        int(number) for path in tracked() if path.match("tests/contract/bus/test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", text_of(path), re.MULTILINE)
        for number in re.findall(r"_fault(\d+)(?=_)", name)
    }
    assert named == FAULTS


#: What users of such assistants suffer, as far as it is the connectors' to spare them that.
CONNECTORS_PAINS = {1, 2, 3, 4, 5, 6, 9, 10, 11, 26, 28}


def test_every_pain_of_the_connectors_has_a_test_of_its_number() -> None:
    named = {
        int(number) for path in tracked() if path.match("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w*pain\d+_\w+)", text_of(path), re.MULTILINE)
        for number in re.findall(r"pain(\d+)_", name)
    }
    assert named >= CONNECTORS_PAINS


def test_every_service_has_a_program_and_every_program_a_service() -> None:
    assert set(programs()) == services()


def test_every_program_is_stopped_with_all_it_started_and_logs_to_a_file_of_its_own() -> None:
    found = supervisord()
    logs = set()
    for name, section in programs().items():
        options = dict(found.items(section))
        assert f"-m microclaw.{name}" in options["command"]
        assert (options["stopasgroup"], options["killasgroup"]) == ("true", "true")
        # The other one is NONE: supervisord would put it into /tmp.
        (log,) = {options["stdout_logfile"], options["stderr_logfile"]} - {"NONE"}
        assert log == f"%(ENV_MICROCLAW_LOGS)s/{name}.log"
        logs.add(log)
        assert any(key.endswith("logfile_maxbytes") for key in options)
    assert len(logs) == len(programs())
    assert not [section for section in found.sections() if section.startswith("group:")]


def commands_in_documents() -> set[tuple[str, str]]:
    found = set()
    for path in tracked():
        if path.suffix == ".md" and (text := text_of(path)):
            for command in COMMAND.findall(text):
                found.add((str(path), command.strip()))
    return found


def test_every_command_in_a_document_exists_with_its_flags() -> None:
    for path, command in sorted(commands_in_documents()):
        words = command.replace("…", "").split()
        assert words[0].split("|")[0] in COMMANDS, f"{path}: microclaw {command}"
        name = words[0].split("|")[0]
        said = help_of(name, [word for word in words[1:] if word.islower() and word.isalpha()])
        for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(words[1:])):
            assert flag in said, f"{path}: microclaw {command}: {name} has no {flag}"


def help_of(command: str, actions: list[str]) -> str:
    """The help of a command and of those of its actions that are named."""
    import argparse

    root = parser(command)
    (sub,) = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    chosen = sub.choices[command]
    said = chosen.format_help()
    for action in chosen._actions:
        if isinstance(action, argparse._SubParsersAction):
            said += "".join(action.choices[name].format_help() for name in actions if name in action.choices)
    return said


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_hold_every_dependency_with_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    locked = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", text, re.MULTILINE))
    wanted = list(PYPROJECT["project"]["dependencies"])
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted += extras["agent"] + extras.get(lock.split("/")[-1].removesuffix(".lock"), [])
    wanted += extras["channel"] if lock.split("/")[-1].removesuffix(".lock") in CHANNELS else []
    if lock.endswith("dev.lock"):
        wanted += PYPROJECT["dependency-groups"]["dev"]
    names = {re.split(r"[\s>=<;\[]", each, maxsplit=1)[0].lower().replace("_", "-") for each in wanted} - {"microclaw"}
    assert names - locked == set()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [package.split("==")[0] for package in packages if "--hash=sha256:" not in package] == []
    assert not re.search(r"https?://", text)


def test_the_version_is_said_once() -> None:
    assert PYPROJECT["project"]["version"] == VERSION


def test_every_table_has_one_owner() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] == "services" and (text := text_of(path)):
            names = re.findall(r"\bTable\(\s*\"(\w+)\"|__tablename__\s*=\s*\"(\w+)\"", text)
            for name in filter(None, (first or second for first, second in names)):
                owners[name].add(path.parts[2])
    assert owners
    assert {name: who for name, who in owners.items() if len(who) > 1} == {}


def test_only_the_owner_names_its_database() -> None:
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] == "services" and (text := text_of(path)):
            for name in re.findall(r"\.database\(\"(\w+)\"\)", text):
                assert name == path.parts[2], f"{path} opens the database of {name}"


def test_the_quick_commands_import_nothing_heavy() -> None:
    import subprocess

    heavy = ("sqlalchemy", "zmq", "asyncio", "msgspec", "supervisor", "alembic", "docker", "importlib.metadata")
    program = (
        "import sys; from microclaw.cli.__main__ import main; main(['version']);"
        f"print(sorted(set(sys.modules) & set({heavy!r})))"
    )
    said = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_a_whole_connector_has_less_than_150_lines_and_needs_the_librarys_rooms_alone() -> None:
    text = text_of(ROOT / "tests" / "fakes" / "chirp_connector.py")
    rooms = set(re.findall(r"^(?:from|import) (?:microclaw|tests)\.?(\w*)", text, re.MULTILINE))
    assert rooms == {"bus", "channel", "core"}
    assert len(text.splitlines()) < 150
