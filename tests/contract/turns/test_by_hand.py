"""`microclaw sandbox …` as asked over the bus: what is measured, what a group is given, commands in fresh sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contract.processes import ask, until
from tests.contract.turns.desk import Desk, children_of

from microclaw.bus.api import Bus
from microclaw.core.requests import Done, Failed, GroupAnswer, RegisterGroup
from microclaw.core.sandbox_requests import (
    CommandOutput,
    CommandStarted,
    ExplainSandbox,
    ReadCommand,
    SandboxAsked,
    SandboxExplained,
    SandboxState,
    StartCommand,
    StopCommand,
)

pytestmark = pytest.mark.usefixtures("bubblewrap")


@pytest.fixture
async def house(bubblewrap: None) -> AsyncIterator[tuple[Desk, Bus]]:
    """Main and `fam` are registered."""
    async with Desk.opened("router") as desk:
        cli = await desk.made.connect("cli")
        await ask(cli, "router", RegisterGroup(
            command_id="r1", chat="console:fam", folder="fam", name="Family", trigger="@Andy",
        ), GroupAnswer)
        yield desk, cli


async def command(cli: Bus, *argv: str, group: str = "fam") -> tuple[str, CommandOutput]:
    """(all it wrote, its end)."""
    started = await ask(cli, "sandbox", StartCommand(group=group, argv=argv), CommandStarted)
    data, part = b"", 0
    while True:
        output = await ask(cli, "sandbox", ReadCommand(run_id=started.run_id, part=part), CommandOutput)
        again = await ask(cli, "sandbox", ReadCommand(run_id=started.run_id, part=part), CommandOutput)
        assert again == output, "a repeated question gets the same part"
        data += output.data
        if output.ended:
            await ask(cli, "sandbox", StopCommand(run_id=started.run_id), Done)
            return data.decode(), output
        part += 1


async def test_a_command_runs_as_the_groups_agent_would_and_tells_all_it_wrote(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    said, end = await command(
        cli, "sh", "-c", "echo out; echo err >&2; pwd; id -u; cat; touch /workspace/group/made; exit 7",
    )
    lines = said.split("\n")
    assert lines[:3] == ["out", "err", "/workspace/group"] and lines[3] != "0" and (end.code, end.why) == (7, "")
    assert (desk.made.home.groups / "fam" / "made").exists()
    said, _ = await command(cli, "sh", "-c", "echo $https_proxy; curl -sS https://evil.example/")
    assert said.startswith("http://127.0.0.1:3128\n")
    assert "[egress refused: evil.example:443 is not on the allow-list of group fam" in said or "not found" in said
    big, end = await command(cli, "sh", "-c", "i=0; while [ $i -lt 9000 ]; do echo line-$i; i=$((i+1)); done")
    assert big.split() == [f"line-{number}" for number in range(9000)] and end.code == 0


async def test_explain_tells_what_the_sandbox_then_really_has(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    told = await ask(cli, "sandbox", ExplainSandbox(group="fam"), SandboxExplained)
    assert (told.backend, told.is_main, told.limits["memory_mb"]) == ("bubblewrap", False, 256)
    for mount in told.mounts:
        said, _ = await command(cli, "sh", "-c", f"touch {mount.target}/probe && echo writable || echo not")
        assert ("writable" in said) == mount.writable, mount
    assert str(desk.made.home.secrets) not in str(told)
    nobody = await ask(cli, "sandbox", ExplainSandbox(group="nobody"), SandboxExplained | Failed)  # type: ignore[arg-type]
    assert isinstance(nobody, Failed) and "only: main, fam" in nobody.reason
    state = await ask(cli, "sandbox", SandboxAsked(), SandboxState)
    assert (state.backend, state.trouble) == ("bubblewrap", "")


async def test_a_command_that_nobody_waits_for_is_ended_with_all_it_started(house: tuple[Desk, Bus]) -> None:
    desk, cli = house
    # Main's worker is there, so that what comes now is the command's.
    await until(lambda: '"worker started"' in desk.made.log("sandbox"))
    before = set(children_of(desk.made.pid("sandbox")))
    started = await ask(cli, "sandbox", StartCommand(group="fam", argv=("sleep", "600")), CommandStarted)
    its = set(children_of(desk.made.pid("sandbox"))) - before
    assert its
    await ask(cli, "sandbox", StopCommand(run_id=started.run_id), Done)
    await until(lambda: not its & set(children_of(desk.made.pid("sandbox"))))
    gone = await ask(cli, "sandbox", ReadCommand(run_id=started.run_id, part=0), CommandOutput | Failed)  # type: ignore[arg-type]
    assert isinstance(gone, Failed)
