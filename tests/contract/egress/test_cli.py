"""`microclaw secrets|egress|audit|usage` as a person types them, under a real supervisord with broker and egress."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.egress.through_door import KEY, call

from microclaw.bus.client import connect as connect_bus
from microclaw.core.requests import Door, OpenDoor

CONFIG = """
[supervisord]
nodaemon = true
pidfile = {run}/supervisord.pid
logfile = {logs}/supervisord.log
[unix_http_server]
file = {run}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:broker]
command = {python} -m microclaw.broker
stdout_logfile = {logs}/broker.log
[program:egress]
command = {python} -m microclaw.egress
stdout_logfile = {logs}/egress.log
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def microclaw(home) -> Iterator[Command]:
    """The command line of this installation."""
    env = {**os.environ, "MICROCLAW_HOME": str(home.data.parent), "NO_COLOR": "1"}
    config = home.data / "supervisord.conf"
    config.write_text(CONFIG.format(run=home.run, logs=home.logs, python=sys.executable))
    mesh = subprocess.Popen([sys.executable, "-m", "supervisor.supervisord", "-c", str(config)], env=env,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def command(*arguments: str, value: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "microclaw.cli", *arguments], env=env, input=value, text=True,
                              capture_output=True, timeout=60, check=False)

    ends = time.monotonic() + 60
    while command("secrets", "list").returncode != 0:
        assert time.monotonic() < ends, (home.logs / "egress.log").read_text()
        time.sleep(0.2)
    yield command
    mesh.terminate()
    mesh.wait(30)


def test_secrets_rules_and_the_audit_log_from_the_command_line(home, microclaw):
    done = microclaw("secrets", "set", "llm", value=f"{KEY}\n")
    assert done.returncode == 0 and "in force" in done.stdout and KEY not in done.stdout + done.stderr
    refused = microclaw("secrets", "set", "llm", KEY)
    assert refused.returncode == 2 and KEY not in refused.stderr and "command line" in refused.stderr
    assert microclaw("secrets", "rotate", "nothing", value=KEY).returncode == 2
    (row,) = json.loads(microclaw("secrets", "list", "--json").stdout)
    assert row["name"] == "llm" and KEY not in json.dumps(row)

    lent = microclaw("secrets", "set", "hub", "--host", "api.good.example", "--group", "home", value="a-value-to-lend")
    assert lent.returncode == 0 and "MC_SECRET_HUB" in lent.stdout and "api.good.example:443" in lent.stdout
    assert microclaw("secrets", "rotate", "hub", value="another-value-1").returncode == 0
    rows = {row["name"]: row for row in json.loads(microclaw("secrets", "list", "--json").stdout)}
    assert rows["hub"]["hosts"] == ["api.good.example:443"] and rows["hub"]["groups"] == ["home"]
    assert "api.good.example:443" in microclaw("secrets", "list").stdout and rows["llm"]["hosts"] == []
    for wrong in (("--host", "*.good.example"), ("--host", "good.example:80"), ("--group", "home")):
        assert microclaw("secrets", "set", "hub", *wrong, value="another-value-2").returncode == 2, wrong
    assert microclaw("secrets", "rm", "hub").returncode == 0

    assert microclaw("egress", "allow", "*.good.example", "--group", "home").returncode == 0
    assert microclaw("egress", "deny", "bad.good.example").returncode == 0
    assert "*.good.example" in microclaw("egress", "list").stdout
    explained = microclaw("egress", "explain", "bad.good.example", "--group", "home")
    assert explained.returncode == 4 and "denied by the rule" in explained.stdout
    assert microclaw("egress", "allow", "10.0.0.1").returncode == 2
    assert microclaw("egress", "forget", "nothing.example").returncode == 2

    assert microclaw("usage", "--by", "group", "--json").stdout.strip() == "[]"
    actions = [entry["action"] for entry in json.loads(microclaw("audit", "tail", "--json").stdout)]
    assert actions == ["secret.set", "secret.set", "secret.rotate", "secret.rm", "egress.allow", "egress.deny"]
    exported = [json.loads(line) for line in microclaw("audit", "export").stdout.splitlines()]
    assert [entry["number"] for entry in exported] == [1, 2, 3, 4, 5, 6] and KEY not in json.dumps(exported)
    assert microclaw("audit", "verify").returncode == 0

    assert microclaw("secrets", "rm", "llm").returncode == 0
    assert microclaw("secrets", "rm", "llm").returncode == 2
    leaks = [path.name for path in home.data.parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert leaks == []


def test_rules_for_one_tool_and_for_websockets_from_the_command_line(home, microclaw):
    assert "by web_fetch" in microclaw("egress", "allow", "pages.example", "--tool", "web_fetch").stdout
    assert microclaw("egress", "allow", "chat.example", "--group", "home", "--websocket", "--opaque").returncode == 0
    assert microclaw("egress", "deny", "chat.example", "--tool", "web_fetch").returncode == 0
    for wrong in (("--tool", "curl"), ("--tool", "web_fetch", "--websocket"), ("--tool", "web_fetch", "--opaque")):
        refused = microclaw("egress", "allow", "pages.example", *wrong)
        assert refused.returncode == 2 and refused.stderr, wrong
    assert microclaw("egress", "deny", "pages.example", "--websocket").returncode == 2

    rows = {(row["host"], row["tool"]): row for row in json.loads(microclaw("egress", "list", "--json").stdout)}
    assert set(rows) == {("pages.example", "web_fetch"), ("chat.example", ""), ("chat.example", "web_fetch")}
    allowed = rows["chat.example", ""]
    assert allowed["websocket"] and allowed["opaque"] and not rows["pages.example", "web_fetch"]["websocket"]
    shown = microclaw("egress", "list").stdout.splitlines()
    assert [line.split() for line in shown if "home" in line] == [
        ["allow", "chat.example", "443", "home", "all", "websocket,", "opaque", "cli"]
    ]
    assert "pages.example" not in microclaw("egress", "list", "--tool", "bash").stdout
    assert "home" not in microclaw("egress", "list", "--group", "work").stdout

    def explained(*arguments):
        return json.loads(microclaw("egress", "explain", *arguments, "--json").stdout)["ways"]

    pages, programs = explained("pages.example", "--group", "home")
    assert (pages["tool"], pages["allowed"]) == ("web_fetch", True)
    assert (programs["tool"], programs["allowed"]) == ("bash", False)
    assert "--tool bash" in programs["reason"]
    (programs,) = explained("chat.example", "--group", "home", "--tool", "bash")
    assert programs["allowed"] and programs["websocket"] and programs["opaque"] and not programs["read"]
    said = microclaw("egress", "explain", "chat.example", "--group", "home").stdout
    assert "reading pages (web_fetch): no, chat.example:443 is denied" in said and "WebSocket" in said
    assert "programs (bash and whatever else runs inside): yes" in said and "TLS tunnels: not opened" in said
    assert microclaw("egress", "allow", "api.example").returncode == 0
    assert [way["read"] for way in explained("api.example")] == [False, True]
    assert "TLS tunnels: opened" in microclaw("egress", "explain", "api.example").stdout
    refused = microclaw("egress", "explain", "chat.example", "--group", "home", "--tool", "web_fetch")
    assert refused.returncode == 4 and "denied by the rule chat.example:443 web_fetch" in refused.stdout

    assert microclaw("egress", "forget", "pages.example").returncode == 2, "a rule for one tool is that tool's"
    assert microclaw("egress", "forget", "pages.example", "--tool", "web_fetch").returncode == 0
    audited = [json.loads(line) for line in microclaw("audit", "export").stdout.splitlines()]
    assert [row["detail"] for row in audited] == ["web_fetch", "websocket opaque", "web_fetch", "", "web_fetch"]


def test_budgets_and_approvals_from_the_command_line(home, microclaw):
    shown = microclaw("budget", "set", "--tokens", "5000", "--group", "home", "--json")
    assert shown.returncode == 0, shown.stderr
    rows = {row["group"]: row for row in json.loads(shown.stdout)["budgets"]}
    assert (rows["home"]["tokens_per_day"], rows["home"]["origin"]) == (5000, "cli")
    refused = microclaw("budget", "set", "--money", "5")
    assert refused.returncode == 2 and "budget.prices" in refused.stderr
    assert "5,000" not in microclaw("budget", "forget", "--group", "home").stdout
    assert json.loads(microclaw("usage", "--by", "group", "--json").stdout) == []
    assert "nothing waits" in microclaw("approvals", "list").stdout
    unknown = microclaw("approvals", "approve", "ABCD-EFGH", "always")
    assert unknown.returncode != 0 and "no such code" in unknown.stderr
    audited = [json.loads(line) for line in microclaw("audit", "export").stdout.splitlines()]
    assert [row["action"] for row in audited] == ["budget.set", "budget.set", "approval.answer"]

    door = opened_door(home)
    for host in ("one.example", "two.example"):
        asked = asyncio.run(call(door, f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))
        assert asked.startswith(b"HTTP/1.1 403") and b"the owner was asked" in asked
    waiting = json.loads(microclaw("approvals", "list", "--json").stdout)
    codes = {row["action"]["target"]: row["code"] for row in waiting}
    assert set(codes) == {"one.example:443", "two.example:443"} and {row["state"] for row in waiting} == {"pending"}
    assert "nothing has your yes" in microclaw("approvals", "grants").stdout
    assert microclaw("approvals", "approve", codes["one.example:443"], "always").returncode == 0
    assert microclaw("approvals", "deny", codes["two.example:443"]).returncode == 0
    assert "nothing waits" in microclaw("approvals", "list").stdout
    (grant,) = json.loads(microclaw("approvals", "grants", "--json").stdout)
    assert (grant["code"], grant["state"]) == (codes["one.example:443"], "always")
    assert "one.example" in microclaw("egress", "list").stdout
    assert len(json.loads(microclaw("approvals", "list", "--all", "--json").stdout)) == 2
    assert microclaw("approvals", "revoke", grant["code"]).returncode == 0
    assert json.loads(microclaw("approvals", "grants", "--json").stdout) == []
    assert "one.example" not in microclaw("egress", "list").stdout


def opened_door(home) -> Path:
    """A worker's door, asked for over the bus."""
    async def ask() -> Path:
        bus = await connect_bus(home.bus, "cli", timeout_s=30)
        try:
            return Path((await bus.request("egress", OpenDoor(worker_id="w-1", group="home"), Door)).directory)
        finally:
            await bus.close()

    return asyncio.run(ask())


def test_ac69_each_way_to_falsify_the_audit_log_is_told_by_its_command(home, microclaw):
    for number in range(6):
        assert microclaw("egress", "deny", f"host-{number}.example").returncode == 0
    assert microclaw("audit", "verify").returncode == 0
    shown = microclaw("audit", "tail", "-n", "2").stdout.splitlines()
    assert len(shown) == 2 and "host-5.example" in shown[1] and "egress.deny" in shown[1]
    exported = [json.loads(line) for line in microclaw("audit", "export", "--after", "3").stdout.splitlines()]
    assert [entry["number"] for entry in exported] == [4, 5, 6] and all(entry["hash"] for entry in exported)

    table = sqlite3.connect(home.database("egress"), isolation_level=None)
    rows = table.execute("SELECT * FROM egress_audit ORDER BY number").fetchall()
    marks = ", ".join("?" * len(rows[0]))
    for what, statements in {
        "edited": ["UPDATE egress_audit SET outcome = 'allow' WHERE number = 2"],
        "missing": ["DELETE FROM egress_audit WHERE number = 3"],
        "edited at entry 4": [
            "UPDATE egress_audit SET number = 99 WHERE number = 4",
            "UPDATE egress_audit SET number = 4 WHERE number = 5",
            "UPDATE egress_audit SET number = 5 WHERE number = 99",
        ],
        "truncated": ["DELETE FROM egress_audit WHERE number > 4"],
    }.items():
        for statement in statements:
            table.execute(statement)
        found = microclaw("audit", "verify")
        assert found.returncode == 5 and what in found.stdout and "falsified" in found.stderr, (what, found)
        assert json.loads(microclaw("audit", "verify", "--json").stdout)["faults"]
        table.execute("DELETE FROM egress_audit")
        table.executemany(f"INSERT INTO egress_audit VALUES ({marks})", rows)
    table.close()
    assert microclaw("audit", "verify").returncode == 0
