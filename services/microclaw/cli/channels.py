"""`microclaw channels list|add|remove|login|logout|status`: the chats that your assistant lives in."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from microclaw.bus.supervisor import Supervisor
from microclaw.cli.asking import ask, asked, connected
from microclaw.cli.config import set_values
from microclaw.cli.context import Context, duration
from microclaw.cli.extras import install, is_installed
from microclaw.cli.secrets import value_of
from microclaw.core.channel_settings import CONNECTORS
from microclaw.core.errors import MicroclawError, NotRunningError, UnhealthyError, UsageError
from microclaw.core.requests import (
    ChannelStatus,
    ChannelStatusAsked,
    Done,
    RemoveSecret,
    SecretAnswer,
    Secrets,
    SecretsAsked,
    SetSecret,
)

#: The setting that names a connector's secret; iMessage has none.
SECRET_KEYS = {"telegram": "token", "discord": "token", "email": "password"}
#: What else a connector can't do without: asked for when it is added.
NEEDED = {
    "email": {
        "address": "the assistant's own address", "imap_host": "the IMAP server",
        "smtp_host": 'the SMTP server ("" = the same)',
        "authserv_id": 'the name your server gives itself in Authentication-Results ("" = nobody\'s From is believed)',
    },
}
_COLOURS = {"connected": "green", "connecting": "yellow", "waiting": "yellow", "logged_out": "red"}
UNHEALTHY = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="what there is, and what is in use")
    add = actions.add_parser("add", help="install what it needs, ask for its secret, start it")
    add.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of it (repeat for more)"
    )
    add.add_argument("--no-install", action="store_true", help="install nothing: its packages are there")
    add.add_argument("--no-secret", action="store_true", help="leave the secret as it is")
    remove = actions.add_parser("remove", help="stop it and do not start it again; its secret stays")
    login = actions.add_parser("login", help="give it a new secret")
    logout = actions.add_parser("logout", help="forget its secret")
    status = actions.add_parser("status", help="connected since when, last event, what waits, what failed")
    status.add_argument("channel", metavar="CHANNEL", nargs="?", choices=CONNECTORS)
    for action in (add, remove, login, logout):
        action.add_argument("channel", metavar="CHANNEL", choices=CONNECTORS, help=", ".join(CONNECTORS))
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(context: Context, options: argparse.Namespace) -> int:
    """Carry it out. Raises MicroclawError."""
    match options.action:
        case "list":
            return _list(context)
        case "status":
            return asyncio.run(_status(context, options.channel))
        case "add":
            add(context, options.channel, options.set, packages=not options.no_install, secret=not options.no_secret)
        case "remove":
            set_values(context, {f"channels.{options.channel}.enabled": "false"})
            _supervised(context, options.channel, start=False)
            context.say(f"{options.channel} is not used any more; its secret stays (`channels logout` forgets it)")
        case "login":
            login(context, options.channel)
        case "logout":
            ask(context, RemoveSecret(name=_secret_name(context, options.channel)), Done)
            _supervised(context, options.channel, start=options.channel in context.settings.channels.enabled())
            context.say(f"the secret of {options.channel} is forgotten")
    if context.json:
        context.dump({"channel": options.channel, "done": options.action})
    return 0


def add(
    context: Context, channel: str, settings: Sequence[str] = (), *, packages: bool = True, secret: bool = True,
    value: str | None = None,
) -> None:
    """Install it, configure it, store its secret (`value`, else it is asked for), start it. May be done again.

    :raises MicroclawError: a step failed; those before it are done.
    """
    given: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE")
        given[key] = text
    have = getattr(context.settings.channels, channel)
    for key, means in NEEDED.get(channel, {}).items():
        if key not in given and not getattr(have, key):
            given[key] = context.ask(f"{means}: ")
    if channel == "imessage" and not Path(osascript := given.get("osascript", have.osascript)).exists():
        raise UsageError(f"imessage needs Messages on a Mac ({osascript} is not here): run MicroClaw there")
    if not is_installed(channel):
        if not packages:
            raise UsageError(f"the packages of {channel} are not there: leave --no-install out, and they are installed")
        install(context, channel)
    wanted = {f"channels.{channel}.{key}": text for key, text in given.items()}
    set_values(context, wanted | {f"channels.{channel}.enabled": "true"})
    context.say(f"{channel} is in the configuration")
    is_up = _is_up(context)
    if secret and channel in SECRET_KEYS and is_up and (value is not None or not _has_secret(context, channel)):
        login(context, channel, value, restart=False)
    if not is_up:
        later = f", then `microclaw channels login {channel}`" if channel in SECRET_KEYS else ""
        context.say(f"MicroClaw is not running: start it with `microclaw up`{later}")
        return
    _supervised(context, channel, start=True)


def login(context: Context, channel: str, value: str | None = None, *, restart: bool = True) -> None:
    """Store a connector's secret, and let it connect anew."""
    name = _secret_name(context, channel)
    secret = value if value is not None else value_of(name)
    kept = ask(context, SetSecret(name=name, value=secret), SecretAnswer).secret
    context.say(f"the secret of {channel} is kept as {name} (fingerprint {kept.fingerprint})")
    if restart:
        _supervised(context, channel, start=channel in context.settings.channels.enabled())


def state_of(context: Context, channel: str) -> ChannelStatus | None:
    """What the connector says of itself now, None = it does not answer."""

    async def once() -> ChannelStatus | None:
        async with connected(context) as bus:
            try:
                return await asked(bus, ChannelStatusAsked(), ChannelStatus, 2.0, service=channel)
            except MicroclawError:
                # That it does not answer is what is to be known.
                return None

    return asyncio.run(once())


# --- inside -----------------------------------------------------------------------------------------------------


def _secret_name(context: Context, channel: str) -> str:
    if channel not in SECRET_KEYS:
        raise UsageError(f"{channel} needs no secret: it is this Mac's own account")
    return str(getattr(getattr(context.settings.channels, channel), SECRET_KEYS[channel]))


def _has_secret(context: Context, channel: str) -> bool:
    name = _secret_name(context, channel)
    return any(row.name == name for row in ask(context, SecretsAsked(), Secrets).secrets)


def _is_up(context: Context) -> bool:
    try:
        Supervisor(context.home.supervisor_socket).pid()
    except NotRunningError:
        return False
    return True


def _supervised(context: Context, channel: str, *, start: bool) -> None:
    """Start it anew with the settings as they are, or stop it; if MicroClaw runs."""
    supervisor = Supervisor(context.home.supervisor_socket)
    try:
        if all(process.name != channel for process in supervisor.processes()):
            raise UnhealthyError(f"this MicroClaw has no service {channel}: update it, then microclaw down, up")
        supervisor.stop(channel)
        if start:
            supervisor.start(channel)
            context.say(f"{channel} is started: `microclaw channels status {channel}` shows how it does")
    except NotRunningError:
        context.say("it counts from the next start: microclaw up")


def _list(context: Context) -> int:
    enabled = context.settings.channels.enabled()
    if context.json:
        context.dump([
            {"channel": name, "enabled": name in enabled, "installed": is_installed(name)} for name in CONNECTORS
        ])
        return 0
    yes = {True: "yes", False: "no"}
    context.table(
        ("CHANNEL", "IN USE", "INSTALLED"),
        [(name, yes[name in enabled], yes[is_installed(name)]) for name in CONNECTORS],
        ["green" if name in enabled else "grey" for name in CONNECTORS],
    )
    if not enabled:
        context.say("\nmicroclaw channels add CHANNEL puts one to use; the console is always there (microclaw chat)")
    return 0


async def _status(context: Context, channel: str | None) -> int:
    used = context.settings.channels.enabled()
    if channel and channel not in used:
        raise NotRunningError(f"{channel} is not in use: `microclaw channels add {channel}` puts it to use")
    names = [channel] if channel else list(used)
    async with connected(context) as bus:

        async def one(name: str) -> ChannelStatus | None:
            try:
                return await asked(bus, ChannelStatusAsked(), ChannelStatus, 2.0, service=name)
            except MicroclawError:
                # That it does not answer is what will be shown.
                return None

        found = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
    healthy = all(status is not None and status.state == "connected" for status in found.values())
    if context.json:
        context.dump([
            {"channel": name, **({"state": "down"} if status is None else msgspec.to_builtins(status))}
            for name, status in found.items()
        ])
    elif not names:
        context.say("no channel is in use: microclaw channels add CHANNEL")
    else:
        _show(context, found)
    return 0 if healthy else UNHEALTHY


def _show(context: Context, found: dict[str, ChannelStatus | None]) -> None:
    now = time.time()
    lines, colours = [], []
    for name, status in found.items():
        if status is None:
            lines.append((name, "does not answer", *["-"] * 7))
            colours.append("red")
            continue
        heard = duration(now - status.last_event_ms / 1000) + " ago" if status.last_event_ms else "never"
        lines.append((
            name, f"{status.state} {duration(now - status.since_ms / 1000)}", status.account or "-", heard,
            *(str(count) for count in (status.queued, status.sent, status.failed, status.uncertain, status.expired)),
        ))
        colours.append(_COLOURS.get(status.state, "grey"))
    head = ("CHANNEL", "STATE", "ACCOUNT", "LAST EVENT", "QUEUED", "SENT", "FAILED", "UNCERTAIN", "EXPIRED")
    context.table(head, lines, colours)
    for name, status in found.items():
        if status is None:
            print(f"{context.paint('!', 'yellow')} {name}: look with `microclaw logs {name}`")
        elif status.trouble:
            tries = f" ({status.failures} tries in a row failed)" if status.failures > 1 else ""
            print(f"{context.paint('!', 'yellow')} {name}: {status.trouble}{tries}")
