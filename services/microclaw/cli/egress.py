"""`microclaw egress list|allow|deny|forget|explain`: where sandboxes may go."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context
from microclaw.cli.groups import note_unknown
from microclaw.core.egress_rules import TOOLS
from microclaw.core.requests import (
    ChangeEgressRule,
    Done,
    EgressExplained,
    EgressRule,
    EgressRules,
    EgressRulesAsked,
    EgressWay,
    ExplainEgress,
)

_ACTIONS = {
    "allow": "let agents reach a host",
    "deny": "keep agents from a host, whatever else allows it",
    "forget": "take back an allow or deny of yours",
    "explain": "would it be reached now, and why (not)",
}
_DONE = {
    "allow": ("may be reached", "by"), "deny": ("is denied", "to"), "forget": ("has no rule of yours any more", "for"),
}


_SAYS = {"web_fetch": "reading pages (web_fetch)", "bash": "programs (bash and whatever else runs inside)"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`list`, and the others with `HOST[:PORT]`; all with `[--group G] [--tool T]`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="the rules in force", description="The rules in force; with --group and --tool, "
                       "those that concern them.")
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("host", metavar="HOST[:PORT]", help="a name, or *.example.org; port 443 if left out")
    for action in actions.choices.values():
        action.add_argument("--group", default="", help="this group only (default: all)")
        action.add_argument(
            "--tool", default="", choices=TOOLS,
            help="web_fetch: reading pages only; bash: every program in the sandbox (default: both)",
        )
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    allow = actions.choices["allow"]
    allow.add_argument("--websocket", action="store_true", help="programs may also begin a WebSocket there")
    allow.add_argument(
        "--opaque", action="store_true", help="egress never opens programs' TLS tunnels to it (for programs with "
        "certificates of their own); a WebSocket in them can't be seen, so none is refused",
    )


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. `explain` of a host that is refused exits with 4. Raises MicroclawError."""
    if options.action == "list":
        return _list(context, options.group, options.tool)
    if options.action == "explain":
        return _explain(context, ExplainEgress(host=options.host, group=options.group, tool=options.tool))
    change = ChangeEgressRule(
        host=options.host, verdict=options.action, group=options.group, tool=options.tool,
        websocket=getattr(options, "websocket", False), opaque=getattr(options, "opaque", False),
    )
    ask(context, change, Done)
    whose = f"group {change.group}" if change.group else "all groups"
    done, word = _DONE[change.verdict]
    tool = f" {word} {change.tool}" if change.tool else ""
    if context.json:
        context.dump(rows([change])[0])
    context.say(f"{change.host} {done}{tool}, for {whose}, from now on")
    if change.verdict != "forget":
        note_unknown(context, [change.group])
    return 0


def _explain(context: Context, question: ExplainEgress) -> int:
    found = ask(context, question, EgressExplained)
    if context.json:
        context.dump(rows([found])[0])
        return 0 if found.allowed else 4
    verdict = context.paint("allowed", "green") if found.allowed else context.paint("refused", "red")
    print(f"{verdict}: {found.reason}")
    if found.addresses:
        print(f"addresses: {', '.join(found.addresses)}")
    if any(way.allowed for way in found.ways):
        print("the rules allow:")
        for line in (line for way in found.ways for line in _said(way)):
            print(f"  {line}")
    return 0 if found.allowed else 4


def _said(way: EgressWay) -> Iterator[str]:
    yield f"{_SAYS[way.tool]}: {'yes' if way.allowed else f'no, {way.reason}'}"
    if way.allowed and way.tool == "bash":
        yield f"a WebSocket in requests that egress reads: {'yes' if way.websocket else 'no'}"
        if way.read:
            yield "TLS tunnels: opened, each request in them is judged"
        else:
            yield "TLS tunnels: not opened, so a WebSocket in them can't be seen"


def _list(context: Context, group: str, tool: str) -> int:
    found = [
        row for row in ask(context, EgressRulesAsked(), EgressRules).rules
        if (not group or row.group in ("", group)) and (not tool or row.tool in ("", tool))
    ]
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say("agents reach nothing but the model; `microclaw egress allow HOST` lets them reach a host")
    else:
        context.table(
            ("VERDICT", "HOST", "PORT", "GROUP", "TOOL", "ALSO", "FROM"), [_cells(row) for row in found],
            ["green" if row.verdict == "allow" else "red" for row in found],
        )
    return 0


def _cells(row: EgressRule) -> tuple[str, ...]:
    also = [word for word, is_set in (("websocket", row.websocket), ("opaque", row.opaque)) if is_set]
    return (
        row.verdict, row.host, str(row.port), row.group or "all", row.tool or "all", ", ".join(also) or "-", row.origin
    )
