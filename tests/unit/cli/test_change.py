"""`microclaw restart` of everything: as after a start."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from microclaw.bus.supervisor import Process
from microclaw.cli import change
from microclaw.cli.context import Context
from microclaw.cli.readiness import wanted
from microclaw.core.errors import UnhealthyError, UsageError


def process(name: str, state: str, since_s: int = 5) -> Process:
    return Process(name=name, state=state, pid=7 * (state == "RUNNING"), since_s=since_s, exit_status=0, error="")


#: Telegram was taken out of use and still runs; e-mail is in use and was never started.
PROCESSES = [
    process("broker", "RUNNING"), process("telegram", "RUNNING"), process("discord", "RUNNING"),
    process("email", "STOPPED", 0), process("imessage", "FATAL"), process("watch", "RUNNING"),
]
CONFIG = """
[channels.discord]
enabled = true
[channels.email]
enabled = true
address = "a@b"
imap_host = "h"
"""


class Supervisord:
    def __init__(self) -> None:
        self.runs = {each.name for each in PROCESSES if each.pid}

    def __call__(self, _path: Path) -> Supervisord:
        return self

    def processes(self) -> list[Process]:
        return PROCESSES

    def stop(self, name: str) -> bool:
        was = name in self.runs
        self.runs.discard(name)
        return was

    def start(self, name: str) -> bool:
        self.runs.add(name)
        return True


@pytest.fixture
def context(tmp_path: Path) -> Context:
    made = Context(env={"MICROCLAW_HOME": str(tmp_path)}, quiet=True)
    made.home.create()
    made.home.config.write_text(CONFIG)
    made.home.config.chmod(0o600)
    return made


def test_a_restart_of_all_runs_the_connectors_in_use_and_no_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "Supervisor", mesh := Supervisord())
    assert change.run(context, argparse.Namespace(services=[], command="restart")) == 0
    assert mesh.runs == {"broker", "discord", "email", "watch"}


@pytest.mark.parametrize("command", ["start", "restart"])
def test_a_connector_that_is_not_in_use_or_not_installed_is_not_started_to_die(
    context: Context, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(change, "Supervisor", mesh := Supervisord())
    monkeypatch.setattr(change, "is_installed", lambda name: name != "email")
    before = set(mesh.runs)
    with pytest.raises(UsageError, match="telegram is not in use: `microclaw channels add telegram`"):
        change.run(context, argparse.Namespace(services=["broker", "telegram"], command=command))
    with pytest.raises(UnhealthyError, match="the packages of email are not installed"):
        change.run(context, argparse.Namespace(services=["email"], command=command))
    assert mesh.runs == before


@pytest.mark.parametrize("services", [[], ["broker"]])
def test_a_restart_with_a_broken_configuration_takes_nothing_down(
    context: Context, monkeypatch: pytest.MonkeyPatch, services: list[str]
) -> None:
    monkeypatch.setattr(change, "Supervisor", mesh := Supervisord())
    before = set(mesh.runs)
    context.home.config.write_text("[modelx]\n")
    with pytest.raises(UsageError, match="did you mean model"):
        change.run(context, argparse.Namespace(services=services, command="restart"))
    assert mesh.runs == before
    assert change.run(context, argparse.Namespace(services=["broker"], command="stop")) == 0, "a stop needs no file"


def test_a_connector_that_stands_still_is_missed_only_where_it_is_in_use(context: Context) -> None:
    assert [each.name for each in wanted(context, PROCESSES)] == ["broker", "telegram", "discord", "email", "watch"]
    context.home.config.write_text("[queue\n")
    unread = Context(env=context.env, quiet=True)
    assert [each.name for each in wanted(unread, PROCESSES)] == [
        "broker", "telegram", "discord", "imessage", "watch"
    ], "what was never started is not missed while nobody knows"
