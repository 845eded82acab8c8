"""The one configuration file, as types. Every field has a default: an empty file is a working installation.

`parse` is strict: an unknown key is an error that names the nearest known one. The file holds no secrets, but
their names. Descriptions, bounds and defaults are said once, here: the JSON schema (`schema`) and the
commented file written at the first start (`default_text`) are made from them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from microclaw.core.channel_settings import NOT_A_URL, Channels, channels_problem, is_url
from microclaw.core.egress_rules import ReadTls, parse_rule
from microclaw.core.errors import UsageError
from microclaw.core.heartbeat import active_hours
from microclaw.core.settings_section import Section

#: A larger file is not a configuration.
FILE_BYTES_MAX = 1 << 20

_REFERENCE = re.compile(r"(?P<escaped>\$)?\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?")
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_LOOKS_LIKE_A_KEY = re.compile(r"sk-|[a-z0-9_-]*[a-z0-9]{24}")
#: Marks the one error whose text needs the list of zones, which only the error's reader should pay for.
UNKNOWN_ZONE = "unknown time zone"


class Assistant(Section, frozen=True, kw_only=True):
    """Who it is."""

    name: Annotated[
        str,
        Meta(
            min_length=1, max_length=40, pattern=r"^\S(.*\S)?$",
            description="Its name; `@Name` wakes it in a group.",
        ),
    ] = "Andy"
    timezone: Annotated[
        str, Meta(description='The owner\'s time zone (IANA name, "Europe/Berlin"); "" = this machine\'s.')
    ] = ""
    prefix: Annotated[
        bool, Meta(description='Put "Name: " before what it says, where a channel does not show who speaks.')
    ] = False


class Model(Section, frozen=True, kw_only=True):
    """What thinks. Without a model the built-in skills answer."""

    backend: Annotated[
        Literal["local", "scripted", "anthropic", "openai"],
        Meta(description="`local` = built-in skills, no model; `openai` = any compatible server."),
    ] = "local"
    name: Annotated[str, Meta(max_length=200, description="The model's name at its provider.")] = ""
    allowed: Annotated[
        tuple[str, ...], Meta(max_length=50, description="Further models that `/model NAME` in the chat may choose.")
    ] = ()
    base_url: Annotated[str, Meta(description='The server (http:// or https://); "" = the usual one.')] = ""
    key: Annotated[str, Meta(description="Name of the secret that holds the key; never the key itself.")] = ""
    max_tokens: Annotated[int, Meta(ge=16, le=1_000_000, description="Longest answer, tokens.")] = 4096
    max_steps: Annotated[int, Meta(ge=1, le=1000, description="Model calls in one turn, at most.")] = 40


class Queue(Section, frozen=True, kw_only=True):
    """How much at once."""

    max_concurrent: Annotated[
        int, Meta(ge=1, le=1000, description="Runs at the same time, all groups together.")
    ] = 5


class Sandbox(Section, frozen=True, kw_only=True):
    """Where agents run. There is no way to run them outside a sandbox."""

    backend: Annotated[
        Literal["auto", "docker", "podman", "bubblewrap", "apple"],
        Meta(description="`auto` takes the first that passes its probe."),
    ] = "auto"
    image: Annotated[
        str,
        Meta(max_length=200, pattern=r"^[a-z0-9][a-zA-Z0-9._/:@-]*$", description="The agent image."),
    ] = "microclaw-agent"
    memory_mb: Annotated[int, Meta(ge=64, le=1 << 20, description="Memory of one worker, MiB.")] = 512
    cpus: Annotated[float, Meta(ge=0.1, le=1024, description="Processors of one worker.")] = 1.0
    pids: Annotated[int, Meta(ge=16, le=32768, description="Processes of one worker.")] = 128
    tmp_mb: Annotated[int, Meta(ge=1, le=65536, description="Size of a worker's /tmp, MiB.")] = 64
    idle_timeout_s: Annotated[
        int, Meta(ge=1, le=7 * 86400, description="A worker without work is ended after this, seconds.")
    ] = 1800
    spare_s: Annotated[
        int,
        Meta(
            ge=0, le=7 * 86400,
            description="A group used within this time gets a new worker ahead when its own has ended, seconds; "
                        "0 = none. A spare gives way to work.",
        ),
    ] = 7200
    run_timeout_s: Annotated[
        int, Meta(ge=1, le=7 * 86400, description="A turn without a result is ended after this, seconds.")
    ] = 1800
    max_workers: Annotated[
        int, Meta(ge=1, le=1000, description="Live workers at most; the longest idle one gives way.")
    ] = 8


class SecretKeeping(Section, frozen=True, kw_only=True):
    """Where keys lie. Only the egress service reads them."""

    store: Annotated[
        Literal["auto", "file", "keychain", "secret-service"],
        Meta(description="`file` (0600); `keychain` (macOS) and `secret-service` (Linux desktops) are the system's own;"
                         " `auto` = the keychain on a new macOS installation, else files."),
    ] = "auto"


class Egress(Section, frozen=True, kw_only=True):
    """What agents can reach."""

    allow: Annotated[
        tuple[str, ...],
        Meta(description="`host` or `host:port` (else 443), `*.example.org` for subdomains. Nothing else. Behind it,"
                         " with spaces: `web_fetch` or `bash` (that way only: pages, or programs), `websocket`"
                         " (programs may begin one), `opaque` (programs' TLS tunnels are never opened)."),
    ] = ()
    read_tls: Annotated[
        ReadTls,
        Meta(description="Whose TLS tunnels egress opens, to judge each request in them: `all`, but for rules with"
                         " `opaque`; `lent`, those to hosts of a credential that the group is lent; `none`."),
    ] = "all"


class Approvals(Section, frozen=True, kw_only=True):
    """What needs the owner's yes, asked in the main chat. What is not asked for is refused, or done."""

    new_hosts: Annotated[
        bool, Meta(description="Ask when an agent wants a host that no rule names; false = it is refused unasked.")
    ] = True
    new_recipients: Annotated[
        bool, Meta(description="Ask before the first message to a chat where nobody ever wrote; false = it is sent.")
    ] = True
    destructive: Annotated[
        Literal["ask", "deny", "allow"],
        Meta(description="Commands of an agent's shell that lose something for good (`rm -rf`, a forced push, a "
                         "publish): ask, refuse them unasked, or let them run."),
    ] = "ask"
    memory: Annotated[
        bool, Meta(description="Ask before words of others than you, and of those you let in, become standing memory; "
                               "false = they do, with their sources written down.")
    ] = True
    expires_min: Annotated[
        int, Meta(ge=1, le=7 * 24 * 60, description="How long a question waits, and a yes for once holds, minutes.")
    ] = 60


_Money = Annotated[float, Meta(ge=0, le=1_000_000)]


class Price(Section, frozen=True, kw_only=True):
    """What a model costs, per million tokens, in `budget.currency`."""

    input: Annotated[float, Meta(ge=0, le=1_000_000, description="Per million tokens sent.")]
    output: Annotated[float, Meta(ge=0, le=1_000_000, description="Per million tokens answered.")]
    cache_read: Annotated[_Money | None, Meta(description="Sent, read from the cache; left out = as input.")] = None
    cache_write: Annotated[_Money | None, Meta(description="Sent, and put into the cache; left out = as input.")] = None


class DayLimit(Section, frozen=True, kw_only=True):
    """The most of one group in a day."""

    tokens_per_day: Annotated[int, Meta(ge=0, le=1 << 50, description="0 = no limit.")] = 0
    money_per_day: Annotated[float, Meta(ge=0, le=1_000_000, description="0 = no limit.")] = 0.0


class Budget(Section, frozen=True, kw_only=True):
    """What the model may cost. Beyond it calls are refused until the next day."""

    tokens_per_day: Annotated[
        int, Meta(ge=0, le=1 << 50, description="Tokens of all groups together in a day; 0 = no limit.")
    ] = 0
    money_per_day: Annotated[
        float, Meta(ge=0, le=1_000_000, description="Money of all groups together in a day; 0 = no limit.")
    ] = 0.0
    currency: Annotated[str, Meta(min_length=1, max_length=8, description="What prices are in.")] = "USD"
    groups: Annotated[
        dict[str, DayLimit], Meta(description="`[budget.groups.NAME]`: one group's own limits, within those of all.")
    ] = msgspec.field(default_factory=dict)
    prices: Annotated[
        dict[str, Price],
        Meta(description='`[budget.prices."MODEL"]`: input and output, per million tokens; also holds for versions.'),
    ] = msgspec.field(default_factory=dict)


class Heartbeat(Section, frozen=True, kw_only=True):
    """Now and then the main group's agent looks at its HEARTBEAT.md, unasked. An empty file costs nothing."""

    every_min: Annotated[
        int, Meta(ge=0, le=7 * 24 * 60, description="How often, minutes; 0 = never.")
    ] = 0
    active_hours: Annotated[
        str, Meta(max_length=20, description='Only then, by the owner\'s clock ("08:00-22:00"); "" = always.')
    ] = ""
    model: Annotated[
        str, Meta(max_length=200, description='Its model, a cheap one; "" = `model.name`.')
    ] = ""


class Console(Section, frozen=True, kw_only=True):
    """The chat in the terminal."""

    chat: Annotated[
        str,
        Meta(
            pattern=r"^console:[A-Za-z0-9._-]{1,100}$",
            description="The chat of `microclaw chat`, registered as the main group at the first start.",
        ),
    ] = "console:main"


class Guest(Section, frozen=True, kw_only=True):
    """A process of the owner's own on the bus, such as another connector. The house's names can't be changed."""

    publish: Annotated[tuple[str, ...], Meta(description='Kinds it may publish ("message.received", "*", ">").')] = ()
    sessions: Annotated[tuple[str, ...], Meta(description='Sessions it may publish in begin so ("matrix:").')] = ()
    read: Annotated[tuple[str, ...], Meta(description='Kinds it may subscribe to ("reply.requested").')] = ()
    ask: Annotated[tuple[str, ...], Meta(description='Services it may ask ("router", "*").')] = ()
    replay: Annotated[tuple[str, ...], Meta(description="Sessions it may replay begin so.")] = ()


class Senders(Section, frozen=True, kw_only=True):
    """Who may wake it, and how often."""

    unknown: Annotated[
        dict[str, Literal["pair", "ignore"]],
        Meta(
            description="By channel: `pair` = who is unknown and writes to it alone is held and given a code for you; "
                        '`ignore` = is not heard. Left out: {"imessage" = "ignore"}, all others `pair`.'
        ),
    ] = msgspec.field(default_factory=dict)
    per_sender_per_min: Annotated[
        int, Meta(ge=1, le=100_000, description="So many messages of one sender wake it in a minute, yours apart.")
    ] = 60
    per_chat_per_min: Annotated[
        int, Meta(ge=1, le=100_000, description="So many messages of one chat wake it in a minute, yours apart.")
    ] = 120

    allowlist: Annotated[
        str,
        Meta(
            max_length=500,
            description='A JSON file ({"default": {"allow": "*" or [senders], "mode": "trigger" or "drop"}, "chats": '
                        '{chat: …}}), relative to this file; "" = everybody. Damaged or missing = nobody but you.',
        ),
    ] = ""


class Bus(Section, frozen=True, kw_only=True):
    """The journal."""

    retention_days: Annotated[
        int, Meta(ge=1, le=36500, description="Answered messages older than this are deleted, days.")
    ] = 30
    listen: Annotated[
        str,
        Meta(
            pattern=r"^(tcp://[^\s/]+:[0-9]{1,5})?$",
            description='Also listen there for peers on other machines ("tcp://0.0.0.0:7711"), each with a key'
                        ' (`microclaw bus key add`); "" = this machine only.',
        ),
    ] = ""
    rights: Annotated[
        dict[str, Guest],
        Meta(description="`[bus.rights.NAME]`: what a process of your own may do on the bus."),
    ] = msgspec.field(default_factory=dict)


class Settings(Section, frozen=True, kw_only=True):
    """MicroClaw's configuration file (TOML)."""

    assistant: Assistant = Assistant()
    model: Model = Model()
    queue: Queue = Queue()
    sandbox: Sandbox = Sandbox()
    secrets: SecretKeeping = SecretKeeping()
    egress: Egress = Egress()
    budget: Budget = Budget()
    approvals: Approvals = Approvals()
    heartbeat: Heartbeat = Heartbeat()
    console: Console = Console()
    channels: Channels = Channels()
    senders: Senders = Senders()
    bus: Bus = Bus()


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """The settings of the file at `path`; the defaults where there is none.

    :raises UsageError: the file can't be read, others may write it, or it does not parse.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}; look at its folder's mode") from error
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{path} is not a file; the configuration must be one")
    if facts.st_uid not in (os.getuid(), 0):
        raise UsageError(f"{path} belongs to another user; take it over: sudo chown {os.getuid()} {path}")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"{path} can be changed by other users; close it: chmod 600 {path}")
    if facts.st_size > FILE_BYTES_MAX:
        raise UsageError(f"{path} has {facts.st_size} bytes, a configuration has at most {FILE_BYTES_MAX}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}; allow it: chmod 600 {path}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse(text, env, where=str(path))


def parse(text: str, env: Mapping[str, str], *, where: str = "config.toml") -> Settings:
    """The settings that `text` (TOML) means. `env` answers `${NAME}` in strings; `where` names the file.

    :raises UsageError: one line with the file, the line, the key, what was found and what is wanted.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # A lazy import: services read a good file thousands of times for each bad one.
        from microclaw.core.settings_errors import syntax

        raise syntax(where, text, error) from error
    try:
        tables = _expand(tables, env, ())
        settings = msgspec.convert(tables, Settings)
        _check(settings)
    except (msgspec.ValidationError, _Wrong) as error:
        from microclaw.core.settings_errors import explain

        wrong = (error.path, error.why) if isinstance(error, _Wrong) else None
        raise explain(where, text, tables, wrong or str(error)) from error
    return settings


def schema() -> dict[str, object]:
    """The file's JSON schema (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Settings)}


def default_text() -> str:
    """A configuration file that says every key with its default, all commented out."""
    from microclaw.core.settings_text import commented

    return commented(Settings)


# --- inside -------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A value that its type allows and we do not."""

    def __init__(self, path: tuple[str, ...], why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(why)


def _expand(value: Any, env: Mapping[str, str], path: tuple[str, ...]) -> Any:
    """`value` with every `${NAME}` in its strings replaced; `$${` stands for `${` itself."""
    if isinstance(value, dict):
        return {key: _expand(inner, env, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, env, path) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def answer(found: re.Match[str]) -> str:
        name = found["name"]
        if found["escaped"]:
            return found[0][1:]
        if name is None:
            raise _Wrong(path, "has ${ without NAME} behind it; write $${ for the characters themselves")
        if name not in env:
            raise _Wrong(path, f"needs the environment variable {name}, which is not set; set it first")
        return env[name]

    return _REFERENCE.sub(answer, value)


def _is_secret_name(name: str) -> bool:
    return bool(_SECRET_NAME.match(name)) and not _LOOKS_LIKE_A_KEY.match(name)


def _check(settings: Settings) -> None:
    """What the types can't say. Raises _Wrong."""
    zone = settings.assistant.timezone
    if zone:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _Wrong(("assistant", "timezone"), UNKNOWN_ZONE) from None
    if problem := channels_problem(settings.channels, is_secret_name=_is_secret_name):
        raise _Wrong(("channels", *problem[0]), problem[1])
    model = settings.model
    if model.key and not _is_secret_name(model.key):
        # The value may be a real key: it is never repeated in the error.
        raise _Wrong(("model", "key"), "must be the name of a secret (a-z, 0-9, - and _), not the key itself")
    if model.backend in ("anthropic", "openai") and not model.name:
        raise _Wrong(("model", "name"), f"is empty, but backend = {model.backend!r} needs the model's name")
    if model.base_url and not is_url(model.base_url):
        raise _Wrong(("model", "base_url"), NOT_A_URL)
    budget = settings.budget
    if not budget.prices and (budget.money_per_day or any(limit.money_per_day for limit in budget.groups.values())):
        raise _Wrong(("budget", "money_per_day"), 'needs [budget.prices."MODEL"] with input and output, to be kept')
    try:
        active_hours(settings.heartbeat.active_hours)
    except UsageError:
        raise _Wrong(("heartbeat", "active_hours"), "must be a span of the day such as 08:00-22:00") from None
    for entry in settings.egress.allow:
        try:
            parse_rule(entry)
        except UsageError as error:
            raise _Wrong(("egress", "allow"), f"has {entry[:80]!r}: {error}") from None
