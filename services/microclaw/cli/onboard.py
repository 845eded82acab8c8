"""`microclaw onboard`: everything a new installation needs, step by step. Each step can be skipped and done again.

Without a terminal it asks nothing: the flags say what is done, the rest is skipped and told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from microclaw.bus.supervisor import Supervisor
from microclaw.cli import agent, channels, readiness, up
from microclaw.cli.asking import ask, asked_of
from microclaw.cli.config import set_values
from microclaw.cli.context import Context
from microclaw.cli.restarting import restart
from microclaw.cli.secrets import INPUT_CHARS_MAX, value_of
from microclaw.cli.terminal import printable
from microclaw.core import sandbox_requests
from microclaw.core.approvals import shown_code
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import MicroclawError, NotRunningError, UnhealthyError, UsageError
from microclaw.core.people import Role
from microclaw.core.people_requests import SERVICE, AnswerPairing, Paired, Pairings, PairingsAsked
from microclaw.core.requests import SecretAnswer, SetSecret

#: The secret that holds the model's key.
MODEL_SECRET = "model"  # noqa: S105 - its name
#: How long a channel may take to connect, and its owner to write.
CONNECT_S = 60.0
OWNER_S = 600.0
LOOK_S = 1.0
TEST_S = 120.0
#: Of the first answer.
SHOWN_CHARS = 100

DAEMON = """To start it with this machine:
  Linux:  crontab -e, and the line   @reboot {program} up -d
  macOS:  a login item that runs     {program} up -d"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """All steps, as flags."""
    parser.add_argument("--backend", choices=("local", "anthropic", "openai"), help="what thinks (local: no model)")
    parser.add_argument("--model", metavar="NAME", help="the model's name at its provider")
    parser.add_argument("--base-url", metavar="URL", help="another server than the provider's")
    parser.add_argument("--key-file", metavar="FILE", help="holds the model's key (never given on the command line)")
    parser.add_argument("--name", help="what your assistant is called")
    parser.add_argument("--channel", choices=CONNECTORS, help="where you will talk to it, besides the terminal")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the channel")
    parser.add_argument("--secret-file", metavar="FILE", help="holds the channel's token or password")
    parser.add_argument("--no-install", action="store_true", help="the channel's packages are there already")
    parser.add_argument("--owner-code", metavar="CODE", help="the code that the channel gave you")
    parser.add_argument("--no-test", action="store_true", help="do not try the model and the sandbox")


def run(context: Context, options: argparse.Namespace) -> int:
    """Go through the steps. Exit code 5 if one of them failed; the others are done all the same."""
    steps: tuple[tuple[str, Callable[[Context, argparse.Namespace], str]], ...] = (
        ("MicroClaw runs", _start), ("what thinks", _model), ("its name", _name), ("the first answer", _test),
        ("a channel", _channel), ("you, its owner", _owner), ("the sandbox", _sandbox),
    )
    done: dict[str, str] = {}
    failed = False
    for number, (title, step) in enumerate(steps, 1):
        context.say(context.paint(f"{number}/{len(steps)} {title}", "bold"))
        try:
            done[title] = step(context, options) or "done"
        except KeyboardInterrupt:
            done[title] = "skipped"
        except MicroclawError as error:
            done[title] = f"failed: {error}"
            failed = True
        context.say(f"  {context.paint(done[title], 'yellow' if done[title].startswith('failed') else 'grey')}")
        if failed and step is _start:
            # Nothing else can be done without it.
            break
    if context.json:
        context.dump(done)
    context.say(DAEMON.format(program=str(Path(sys.argv[0]).resolve())))
    context.say("Talk to it: microclaw chat. Again, or another step: microclaw onboard")
    return 5 if failed else 0


# --- the steps: each returns what it did ------------------------------------------------------------------------


def _start(context: Context, _options: argparse.Namespace) -> str:
    try:
        Supervisor(context.home.supervisor_socket).pid()
    except NotRunningError:
        up.prepare(context)
        up.start(context)
        return "started"
    return "it runs"


def _model(context: Context, options: argparse.Namespace) -> str:
    now = context.settings.model
    backend = options.backend or context.ask(
        f"  local (no model), anthropic, or openai (any compatible server) [{now.backend}]: ", now.backend
    )
    if backend == now.backend and not (options.model or options.base_url or options.key_file):
        return f"skipped: it stays {now.backend}"
    if backend == "local":
        set_values(context, {"model.backend": "local"})
    else:
        name = options.model or context.ask(f"  the model's name [{now.name}]: ", now.name)
        url = options.base_url if options.base_url is not None else context.ask("  server [the usual one]: ")
        if not name:
            raise UsageError("a model needs a name: --model NAME")
        key = _secret(options.key_file, MODEL_SECRET)
        values = {"model.backend": backend, "model.name": name, "model.base_url": url}
        if key:
            ask(context, SetSecret(name=MODEL_SECRET, value=key), SecretAnswer)
            values["model.key"] = MODEL_SECRET
        set_values(context, values)
    _restart(context, "egress", "sandbox")
    return f"{backend} {context.settings.model.name}".strip()


def _name(context: Context, options: argparse.Namespace) -> str:
    now = context.settings.assistant.name
    name = options.name or context.ask(f"  what is it called? [{now}]: ", now)
    if name == now:
        return f"skipped: it stays {now}"
    set_values(context, {"assistant.name": name})
    _restart(context, "router", "console", "sandbox")
    return name


def _test(context: Context, options: argparse.Namespace) -> str:
    if options.no_test:
        return "skipped"
    context.progress("  asking it to say hello …")
    chat = context.settings.console.chat
    line = asyncio.run(agent.answer(context, chat, "Say hello in one short sentence.", TEST_S))
    if line.origin == "notice":
        raise UnhealthyError(printable(line.text))
    return f"it says: {' '.join(printable(line.text).split())[:SHOWN_CHARS]}"


def _channel(context: Context, options: argparse.Namespace) -> str:
    channel = options.channel or context.ask(f"  {', '.join(CONNECTORS)}, or nothing to skip: ")
    if not channel:
        return "skipped: microclaw channels add CHANNEL adds one later"
    if channel not in CONNECTORS:
        raise UsageError(f"there is no channel {channel!r}; there are: {', '.join(CONNECTORS)}")
    options.channel = channel
    value = _file(options.secret_file) if options.secret_file else None
    channels.add(context, channel, options.set, packages=not options.no_install, value=value)
    until = time.monotonic() + CONNECT_S
    while time.monotonic() < until:
        status = channels.state_of(context, channel)
        if status is not None and status.state == "connected":
            return f"{channel} is connected{f' as {status.account}' if status.account else ''}"
        if status is not None and status.state == "logged_out":
            raise UsageError(f"{channel} was not let in: {status.trouble}")
        time.sleep(LOOK_S)
    raise UsageError(f"{channel} is not connected after {CONNECT_S:.0f} s: microclaw channels status {channel}")


def _owner(context: Context, options: argparse.Namespace) -> str:
    if not options.channel:
        return "skipped: in the terminal you are its owner anyway"
    if options.channel == "imessage":
        return "skipped: on this Mac's own account it is you who writes"
    code = options.owner_code
    if not code:
        if not sys.stdin.isatty():
            return "skipped: write to it, then microclaw pairing approve CHANNEL CODE --owner"
        code = _written(context, options.channel)
    paired = asked_of(context, SERVICE, AnswerPairing(
        command_id=uuid.uuid4().hex, channel=options.channel, code=code, answer="approve", role=Role.OWNER,
    ), Paired)
    return f"{paired.row.sender_name} ({paired.row.sender}) is the owner, and reads an answer there now"


def _written(context: Context, channel: str) -> str:
    """The code of who wrote now, as the person says it is them."""
    context.say(f"  Write anything to it on {channel} now (Ctrl-C: later). It answers with a code.")
    refused: set[str] = set()
    until = time.monotonic() + OWNER_S
    while time.monotonic() < until:
        for row in asked_of(context, SERVICE, PairingsAsked(), Pairings).rows:
            if row.channel == channel and row.code not in refused:
                sure = context.ask(
                    f"  {row.sender_name} ({row.sender}) wrote. Did you get the code {shown_code(row.code)}? [y/N]: "
                )
                if sure.lower().startswith("y"):
                    return row.code
                refused.add(row.code)
        time.sleep(LOOK_S)
    raise UsageError(f"nobody wrote: later, microclaw pairing approve {channel} CODE --owner")


def _sandbox(context: Context, options: argparse.Namespace) -> str:
    if options.no_test:
        return "skipped"
    state = asked_of(context, sandbox_requests.SERVICE, sandbox_requests.SandboxAsked(), sandbox_requests.SandboxState)
    if not state.backend:
        raise UnhealthyError(state.trouble or "no backend was looked at yet: microclaw sandbox status")
    return f"agents run in {state.backend} and nowhere else"


# --- inside -----------------------------------------------------------------------------------------------------


def _secret(path: str | None, name: str) -> str:
    if path:
        return _file(path)
    return value_of(f"{name} key") if sys.stdin.isatty() else ""


def _file(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8") if path != "-" else sys.stdin.read(INPUT_CHARS_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not text.strip() or len(text) > INPUT_CHARS_MAX:
        raise UsageError(f"{path} holds no secret: one line with the key alone")
    return text.strip()


def _restart(context: Context, *services: str) -> None:
    restart(Supervisor(context.home.supervisor_socket), services)
    readiness.wait(context, None)
