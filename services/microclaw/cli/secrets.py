"""`microclaw secrets set|list|rm|rotate`: values go in by a hidden prompt or by standard input, and never come out."""

from __future__ import annotations

import argparse
import getpass
import sys
import time

from microclaw.cli.asking import ask, rows
from microclaw.cli.context import Context, duration
from microclaw.cli.groups import note_unknown
from microclaw.core.errors import UsageError
from microclaw.core.requests import Done, RemoveSecret, SecretAnswer, SecretRow, Secrets, SecretsAsked, SetSecret

#: Read from standard input, at most.
INPUT_CHARS_MAX = 16 << 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """`set NAME [--host HOST[:PORT] …] [--group G …]`, `list`, `rm NAME`, `rotate NAME`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("set", "keep a secret (its value is asked for, or read from standard input)"),
        ("rotate", "replace a secret's value"),
        ("rm", "forget a secret"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name", metavar="NAME")
        # Caught, so that a value given here is not repeated by an error of the parser.
        action.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
        if name == "set":
            action.add_argument(
                "--host", action="append", default=[], metavar="HOST[:PORT]",
                help="lend it to agents for this host, as a stand-in that egress replaces on the way (repeat for more)",
            )
            action.add_argument(
                "--group", action="append", default=[], help="lend it to this group only (repeat for more)",
            )
    actions.add_parser("list", help="names, ages and fingerprints, never values")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    if options.action == "list":
        return _list(context)
    if options.rest:
        raise UsageError(
            "a secret's value is not given on the command line, where others can read it: leave it out and type it "
            "when asked, or pipe it in; and change the one that you just showed"
        )
    if options.action == "rm":
        ask(context, RemoveSecret(name=options.name), Done)
        if context.json:
            context.dump({"name": options.name, "done": "rm"})
        context.say(f"{options.name} is forgotten")
        return 0
    rotate = options.action == "rotate"
    hosts, groups = ((), ()) if rotate else (tuple(options.host), tuple(options.group))
    if groups and not hosts:
        raise UsageError("--group says whom a secret is lent to: name also the --host that it is for")
    kept = ask(context, SetSecret(
        name=options.name, value=value_of(options.name), must_exist=rotate, hosts=hosts, groups=groups,
    ), SecretAnswer).secret
    if context.json:
        context.dump(rows([kept])[0])
    context.say(f"{kept.name} is kept (fingerprint {kept.fingerprint}) and in force")
    if kept.hosts:
        context.say(
            f"agents of {_whom(kept)} find a stand-in for it in {kept.variable}; it works at {', '.join(kept.hosts)} "
            "alone, where `microclaw egress` lets them go"
        )
        note_unknown(context, kept.groups)
    return 0


def _whom(row: SecretRow) -> str:
    return ", ".join(row.groups) or "all groups"


def value_of(name: str) -> str:
    """A secret's value, typed unseen or piped in. Raises UsageError: there is none, or too much."""
    if sys.stdin.isatty():
        value = getpass.getpass(f"Value of {name} (not shown): ")
    else:
        value = sys.stdin.read(INPUT_CHARS_MAX + 1)
        if len(value) > INPUT_CHARS_MAX:
            raise UsageError(f"more than {INPUT_CHARS_MAX} characters came in: pipe in the value alone")
    value = value.strip()
    if not value:
        raise UsageError(f"no value for {name} was given: type it when asked, or pipe it in")
    return value


def _list(context: Context) -> int:
    found = ask(context, SecretsAsked(), Secrets).secrets
    if context.json:
        context.dump(rows(found))
    elif not found:
        context.say("no secrets are kept; `microclaw secrets set NAME` keeps one")
    else:
        now_s = time.time()
        context.table(
            ("NAME", "AGE", "FINGERPRINT", "LENT FOR", "TO"),
            [
                (row.name, duration(now_s - row.set_ms / 1000), row.fingerprint, ", ".join(row.hosts) or "-",
                 _whom(row) if row.hosts else "-")
                for row in found
            ],
        )
    return 0
