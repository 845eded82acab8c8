"""Egress as a process beside a real broker: asked over the bus, killed, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.contract.egress.through_door import KEY, call, post, read_request, until

from microclaw.bus.api import Bus, Draft, Subscription
from microclaw.bus.client import connect as connect_bus
from microclaw.bus.errors import BusError
from microclaw.core.kinds import AuditEntry, ReplyRequested
from microclaw.core.requests import (
    AuditAsked,
    AuditEntries,
    AuditVerified,
    ChangeEgressRule,
    CloseDoors,
    Done,
    Door,
    EgressExplained,
    EgressRules,
    EgressRulesAsked,
    ExplainEgress,
    Failed,
    OpenDoor,
    RemoveSecret,
    SecretAnswer,
    Secrets,
    SecretsAsked,
    ServiceStatus,
    SetBudget,
    SetSecret,
    StatusAsked,
    UsageAsked,
    UsageRows,
    VerifyAudit,
)

GET = b"GET /nowhere HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n"


@contextmanager
def process(home, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service's process; ended and waited for."""
    env = {**os.environ, "MICROCLAW_HOME": str(home.data.parent)}
    log = (home.logs / f"{name}.log").open("ab")
    child = subprocess.Popen([sys.executable, "-m", f"microclaw.{name}"], stdout=log, stderr=log, env=env)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
            raise
        log.close()


async def until_ready(bus: Bus) -> ServiceStatus:
    """Egress's status, once it answers that it is ready."""
    async with asyncio.timeout(30):
        while True:
            with suppress(BusError):
                status = await bus.request("egress", StatusAsked(), ServiceStatus, timeout_s=2)
                if status.ready:
                    return status
            await asyncio.sleep(0.05)


@pytest.fixture
async def upstream_port(upstream):
    async def server(reader, writer):
        head, _ = await read_request(reader)
        body = head + b'"usage"'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return await upstream(server)


async def test_asked_over_the_bus_and_killed_its_doors_come_back(home, upstream_port):
    home.config.write_text(
        f'[model]\nbackend = "openai"\nname = "m"\nkey = "llm"\nbase_url = "http://127.0.0.1:{upstream_port}"\n'
    )
    home.config.chmod(0o600)
    with process(home, "broker"):
        bus = await connect_bus(home.bus, "cli", timeout_s=30)
        with process(home, "egress") as egress:
            await until_ready(bus)
            kept = await bus.request("egress", SetSecret(name="llm", value=KEY), SecretAnswer)
            assert kept.secret.name == "llm"
            listed = await bus.request("egress", SecretsAsked(), Secrets)
            assert [row.name for row in listed.secrets] == ["llm"] and KEY not in repr(listed)
            door = await bus.request("egress", OpenDoor(worker_id="w-1", group="home"), Door)
            assert (door.backend, door.model) == ("openai", "m")
            got = await call(Path(door.directory), post("/llm/v1/chat/completions", b"{}"))
            assert got.startswith(b"HTTP/1.1 200") and b"[REDACTED]" in got and KEY.encode() not in got

            assert isinstance(
                await bus.request("egress", ChangeEgressRule(host="a.example", verdict="allow"), Done), Done
            )
            rules = await bus.request("egress", EgressRulesAsked(), EgressRules)
            assert [(rule.host, rule.port, rule.origin) for rule in rules.rules] == [("a.example", 443, "cli")]
            explained = await bus.request("egress", ExplainEgress(host="b.example", group="home"), EgressExplained)
            assert not explained.allowed and "allow-list" in explained.reason
            bad = await bus.request("egress", SetSecret(name="../x", value=KEY), Failed | SecretAnswer)
            assert isinstance(bad, Failed) and KEY not in bad.reason

            entry = AuditEntry(actor="service:x", action="tool.call", subject="bash", outcome="allow")
            await bus.publish(Draft("service:x", entry), timeout_s=10)
            async with asyncio.timeout(10):
                while True:
                    page = await bus.request("egress", AuditAsked(tail=True), AuditEntries)
                    if any(row.action == "tool.call" for row in page.entries):
                        break
                    await asyncio.sleep(0.02)
            assert (await bus.request("egress", VerifyAudit(), AuditVerified)).faults == ()
            usage = await bus.request("egress", UsageAsked(), UsageRows)
            assert [(row.group, row.calls) for row in usage.rows] == [("home", 1)]
            status = (Path("/proc") / str(egress.pid) / "mem")
            if status.exists() and os.getuid() != 0:
                with pytest.raises(PermissionError):
                    status.open("rb")
            egress.send_signal(signal.SIGKILL)
            egress.wait(10)
        with pytest.raises(ConnectionRefusedError):
            await call(Path(door.directory), GET)
        with process(home, "egress"):
            await until_ready(bus)
            got = await call(Path(door.directory), post("/llm/v1/chat/completions", b"{}"))
            assert got.startswith(b"HTTP/1.1 200")
            assert isinstance(await bus.request("egress", RemoveSecret(name="llm"), Done), Done)
            got = await call(Path(door.directory), post("/llm/v1/chat/completions", b"{}"))
            assert got.startswith(b"HTTP/1.1 401")
            await bus.request("egress", CloseDoors(workers=(), keep_only=True), Done)
            assert not Path(door.directory).exists()
        await bus.close()
    leaks = [path.name for path in home.data.parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert leaks == [], "neither the journal, a database nor a log ever held the key"


async def test_ac10_a_rotated_key_is_used_within_a_second_and_the_old_one_never_again(home, upstream):
    used: list[bytes] = []

    async def server(reader, writer):
        head, _ = await read_request(reader)
        used.append(head.lower().partition(b"authorization: bearer ")[2].split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    port = await upstream(server)
    home.config.write_text(
        f'[model]\nbackend = "openai"\nname = "m"\nkey = "llm"\nbase_url = "http://127.0.0.1:{port}"\n'
    )
    home.config.chmod(0o600)
    with process(home, "broker"):
        bus = await connect_bus(home.bus, "cli", timeout_s=30)
        with process(home, "egress"):
            await until_ready(bus)
            await bus.request("egress", SetSecret(name="llm", value="first-key-1"), SecretAnswer)
            door = Path((await bus.request("egress", OpenDoor(worker_id="w-1", group="home"), Door)).directory)
            stopping = False

            async def calling() -> None:
                while not stopping:
                    await call(door, post("/llm/v1/chat/completions", b"{}"))

            worker = asyncio.create_task(calling())
            await until(lambda: len(used) > 3, within_s=60)
            await bus.request("egress", SetSecret(name="llm", value="second-key-2", must_exist=True), SecretAnswer)
            # In force with the answer, not a while later: the second of grace is for the answer's way.
            answered = len(used)
            await until(lambda: len(used) > answered + 5, within_s=60)
            stopping = True
            await worker
        await bus.close()
    # One call may have been under way when the answer came.
    assert set(used[answered + 1:]) == {b"second-key-2"} and set(used) == {b"first-key-1", b"second-key-2"}


async def test_the_owner_is_told_once_of_a_budget_though_egress_is_killed(home, upstream_port):
    home.config.write_text(
        f'[model]\nbackend = "openai"\nname = "m"\nbase_url = "http://127.0.0.1:{upstream_port}"\n'
    )
    home.config.chmod(0o600)
    told: list[ReplyRequested] = []
    with process(home, "broker"):
        bus = await connect_bus(home.bus, "cli", timeout_s=30)

        async def listen() -> None:
            async for delivery in bus.subscribe(Subscription("listener", ("reply.requested",))):
                told.append(delivery.envelope.read(ReplyRequested))
                await bus.ack(delivery)

        listening = asyncio.create_task(listen())
        with process(home, "egress") as egress:
            await until_ready(bus)
            await bus.request("egress", SetBudget(tokens_per_day=1), Done)
            door = Path((await bus.request("egress", OpenDoor(worker_id="w-1", group="home"), Door)).directory)
            body = b"x" * 400
            assert (await call(door, post("/llm/v1/chat/completions", body))).startswith(b"HTTP/1.1 200")
            assert (await call(door, post("/llm/v1/chat/completions", body))).startswith(b"HTTP/1.1 402")
            # Nobody knows the owner's chat yet: the notice waits on disk.
            egress.send_signal(signal.SIGKILL)
        with process(home, "egress"), process(home, "router"):
            await until_ready(bus)
            assert (await call(door, post("/llm/v1/chat/completions", body))).startswith(b"HTTP/1.1 402")
            await until(lambda: bool(told), within_s=30)
            await bus.request("egress", SetBudget(group="work", tokens_per_day=1), Done)
            other = Path((await bus.request("egress", OpenDoor(worker_id="w-2", group="work"), Door)).directory)
            assert (await call(other, post("/llm/v1/chat/completions", body))).startswith(b"HTTP/1.1 402")
            await until(lambda: len(told) > 1, within_s=30)
        listening.cancel()
        await bus.close()
    assert [(reply.chat, reply.origin) for reply in told] == [("console:main", "notice")] * 2
    assert ["Group home" in told[0].text, "Group work" in told[1].text] == [True, True]
