"""`microclaw restart` of everything: as after a start, and as quick as the slowest."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import pytest

from microclaw.bus.supervisor import Process
from microclaw.cli import change, restarting
from microclaw.cli.context import Context
from microclaw.cli.readiness import wanted
from microclaw.core.errors import UnhealthyError, UsageError


def process(name: str, state: str, since_s: int = 5, pid: int = 0) -> Process:
    return Process(
        name=name, state=state, pid=pid or 7 * (state == "RUNNING"), since_s=since_s, exit_status=0, error=""
    )


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
    """Each start takes a second of its clock, which the waiting moves."""

    def __init__(self, *processes: Process, crashes: str = "", deaf: str = "") -> None:
        self.known = {each.name: each for each in processes or PROCESSES}
        #: Crashes at each start; takes no notice of a request to end.
        self.crashes = crashes
        self.deaf = deaf
        self.now_s = 0.0
        self.told: list[str] = []
        self._up_at: dict[str, float] = {}
        self._pids = 100

    def __call__(self, _path: Path) -> Supervisord:
        return self

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def runs(self) -> set[str]:
        return {each.name for each in self.processes() if each.state == "RUNNING"}

    def processes(self) -> list[Process]:
        for name, up_s in list(self._up_at.items()):
            if self.now_s >= up_s:
                del self._up_at[name]
                state = "BACKOFF" if name == self.crashes else "RUNNING"
                pid = 0 if name == self.crashes else self.known[name].pid
                self.known[name] = process(name, state, pid=pid)
        return list(self.known.values())

    def stop(self, name: str) -> bool:
        was = self.known[name].state != "STOPPED"
        self.known[name] = process(name, "STOPPED")
        self._up_at.pop(name, None)
        return was

    def start(self, name: str, *, wait: bool = True) -> bool:
        assert not wait
        self.told.append(f"start {name}")
        self._pids += 1
        self.known[name] = process(name, "STARTING", pid=self._pids)
        self._up_at[name] = self.now_s + 1
        return True

    def signal(self, name: str, number: signal.Signals) -> bool:
        assert self.known[name].state == "RUNNING"
        self.told.append(f"{number.name} {name}")
        if name != self.deaf or number is signal.SIGKILL:
            self.start(name, wait=False)
            self.told.pop()
        return True


@pytest.fixture
def context(tmp_path: Path) -> Context:
    made = Context(env={"MICROCLAW_HOME": str(tmp_path)}, quiet=True)
    made.home.create()
    made.home.config.write_text(CONFIG)
    made.home.config.chmod(0o600)
    return made


def restart(mesh: Supervisord, *names: str) -> list[tuple[str, bool]]:
    seen: list[tuple[str, bool]] = []
    restarting.restart(
        mesh, names, lambda name, ran: seen.append((name, ran)),  # type: ignore[arg-type]
        clock_s=lambda: mesh.now_s, sleep=mesh.sleep,
    )
    return seen


def test_a_restart_of_all_runs_the_connectors_in_use_and_no_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "Supervisor", mesh := Supervisord())
    monkeypatch.setattr(change.readiness, "wait", lambda _context, _process: mesh.told.append("ready?"))
    monkeypatch.setattr(restarting.restart, "__kwdefaults__", {"clock_s": lambda: mesh.now_s, "sleep": mesh.sleep})
    assert change.run(context, argparse.Namespace(services=[], command="restart")) == 0
    assert mesh.runs == {"broker", "discord", "email", "watch"}
    assert mesh.told == ["SIGTERM broker", "SIGTERM discord", "start email", "ready?"]
    assert mesh.now_s < 3, "the broker, and then the others together"


def test_one_that_does_not_start_is_told_and_holds_up_no_other() -> None:
    mesh = Supervisord(*(process(name, "RUNNING") for name in ("queue", "router", "egress")), crashes="router")
    with pytest.raises(UnhealthyError, match=r"router does not start.*logs router"):
        restart(mesh, "queue", "router", "egress")
    assert mesh.runs == {"queue", "egress"}


def test_one_that_does_not_end_is_killed() -> None:
    mesh = Supervisord(process("queue", "RUNNING"), process("sandbox", "RUNNING"), deaf="sandbox")
    assert restart(mesh, "queue", "sandbox") == [("queue", True), ("sandbox", True)]
    assert mesh.told == ["SIGTERM queue", "SIGTERM sandbox", "SIGKILL sandbox"]


def test_one_that_was_just_crashing_is_started_anew_and_one_that_stays_away_is_told() -> None:
    mesh = Supervisord(process("queue", "BACKOFF"), process("router", "FATAL"))
    assert restart(mesh, "queue", "router") == [("queue", False), ("router", False)]
    mesh.deaf = "queue"
    mesh.signal = lambda _name, _number: True  # type: ignore[method-assign]
    with pytest.raises(UnhealthyError, match="queue did not come back"):
        restart(mesh, "queue")


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
