"""`microclaw sandbox status|explain|run`: where agents run, what a group's agent is given, a command in its place."""

from __future__ import annotations

import argparse
import asyncio
import sys

from microclaw.cli.asking import asked, connected, rows
from microclaw.cli.context import Context
from microclaw.core.errors import UnhealthyError, UsageError
from microclaw.core.requests import Done, EgressRules, EgressRulesAsked
from microclaw.core.sandbox_requests import (
    SERVICE,
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

#: A fresh sandbox may have to wait for its image.
START_S_MAX = 600.0
#: One answer with output.
READ_MS = 2_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """`status`, `explain GROUP`, `run [--group G] -- CMD …`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("status", help="which backend runs agents, and what was measured of it")
    explain = actions.add_parser("explain", help="mounts, limits, tools and way out of a group's agent")
    explain.add_argument("group", nargs="?", default="main", metavar="GROUP")
    run_ = actions.add_parser("run", help="run a command in a fresh sandbox of a group; exits with its code")
    run_.add_argument("--group", default="main", help="as whose agent (default: main)")
    run_.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    for name in ("status", "explain"):
        actions.choices[name].add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "status":
        return asyncio.run(_status(context))
    if options.action == "explain":
        return asyncio.run(_explain(context, options.group))
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise UsageError("run what? microclaw sandbox run [--group GROUP] -- COMMAND …")
    return asyncio.run(_run(context, options.group, tuple(argv)))


async def _status(context: Context) -> int:
    async with connected(context) as bus:
        state = await asked(bus, SandboxAsked(), SandboxState, service=SERVICE)
    if context.json:
        context.dump(rows([state])[0])
    elif state.backend:
        print(f"backend {context.paint(state.backend, 'green')}, {state.workers} workers")
        if state.measured:
            context.table(("PROTECTION", "MEASURED"), sorted(state.measured.items()))
        else:
            print("not measured yet: it is done soon after the start; at once: microclaw doctor --deep")
    if not state.backend:
        raise UnhealthyError(state.trouble or "no backend was looked at yet: try again in a moment")
    return 0


async def _explain(context: Context, group: str) -> int:
    # The agent's own list of tools; only this command needs it.
    from microclaw.agent.tools.schemas import offered

    async with connected(context) as bus:
        found = await asked(bus, ExplainSandbox(group=group), SandboxExplained, service=SERVICE)
        rules = (await asked(bus, EgressRulesAsked(), EgressRules)).rules
    mine = tuple(rule for rule in rules if rule.group in ("", group))
    tools = offered(found.is_main)
    if context.json:
        shown = rows([found])[0]
        assert isinstance(shown, dict)  # noqa: S101 - a struct's JSON is an object
        context.dump(shown | {
            "egress": rows(mine), "tools": [tool.name for tool in tools],
        })
        return 0
    print(f"group {found.group} ({found.chat}){', main' if found.is_main else ''}, in {found.backend or 'no backend'}")
    context.table(("INSIDE", "RIGHTS", "ON THE HOST"), [
        (mount.target, "read, write" if mount.writable else "read", mount.source) for mount in found.mounts
    ])
    print("limits: " + ", ".join(f"{name} {amount:g}" for name, amount in found.limits.items()))
    print(f"times: a turn {found.run_timeout_s} s, idle {found.idle_timeout_s} s")
    print("network: none but the egress door: the model, and " + (
        ", ".join(f"{'' if rule.verdict == 'allow' else 'not '}{rule.host}:{rule.port}" for rule in mine)
        or "no host"
    ))
    inside = [tool.name for tool in tools if tool.effect != "host"]
    outside = [tool.name for tool in tools if tool.effect == "host"]
    print(f"tools inside: {', '.join(inside)}")
    print(f"tools of the host: {', '.join(outside)}")
    return 0


async def _run(context: Context, group: str, argv: tuple[str, ...]) -> int:
    async with connected(context) as bus:
        started = await asked(
            bus, StartCommand(group=group, argv=argv), CommandStarted, START_S_MAX, service=SERVICE
        )
        try:
            part = 0
            while True:
                output = await asked(
                    bus, ReadCommand(run_id=started.run_id, part=part, wait_ms=READ_MS), CommandOutput, service=SERVICE
                )
                sys.stdout.buffer.write(output.data)
                sys.stdout.buffer.flush()
                if output.ended:
                    break
                part += 1
        finally:
            await asked(bus, StopCommand(run_id=started.run_id), Done, service=SERVICE)
    if output.why:
        context.progress(f"microclaw: the command was ended: {output.why}")
    return output.code
