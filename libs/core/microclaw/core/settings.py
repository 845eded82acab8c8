"""The one configuration file, as types. Every field has a default: an empty file is a working installation.

`parse` is strict: an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints
from zoneinfo import available_timezones

import msgspec

from microclaw.core.errors import UsageError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Assistant(Section):
    #: What it is called; `@Name` is the default trigger.
    name: str = "Andy"
    #: The owner's time zone (IANA name); "" = this machine's.
    timezone: str = ""
    #: Put "Name: " before what it says, where the channel does not show who speaks.
    prefix: bool = False


class Model(Section):
    #: `local` = the built-in skills, no model; `anthropic`; `openai` (any compatible server).
    backend: Literal["local", "scripted", "anthropic", "openai"] = "local"
    name: str = ""
    #: The server, "" = the provider's own.
    base_url: str = ""
    #: Name of the secret that holds the key (`microclaw secrets set NAME`).
    key: str = ""
    max_tokens: int = 4096
    max_steps: int = 40


class Queue(Section):
    #: Runs at the same time, all groups together.
    max_concurrent: int = 5


class Sandbox(Section):
    #: `auto` takes the first that passes its probe. There is no "none".
    backend: Literal["auto", "docker", "podman", "bubblewrap", "apple"] = "auto"
    image: str = "microclaw-agent"
    memory_mb: int = 512
    cpus: float = 1.0
    pids: int = 128
    tmp_mb: int = 64
    #: A worker without work is ended after this.
    idle_timeout_s: int = 1800
    #: A turn without a result is ended after this.
    run_timeout_s: int = 1800
    #: Live workers at most; the longest idle one gives way.
    max_workers: int = 8


class Egress(Section):
    #: `host` or `host:port` (443 when left out), `*.example.org` for subdomains. Nothing else can be reached.
    allow: tuple[str, ...] = ()


class Console(Section):
    #: The chat of `microclaw chat`, registered as the main group at the first start.
    chat: str = "console:main"


class Bus(Section):
    #: Answered and older messages are deleted after this.
    retention_days: int = 30


class Settings(Section):
    """The whole file."""

    assistant: Assistant = Assistant()
    model: Model = Model()
    queue: Queue = Queue()
    sandbox: Sandbox = Sandbox()
    egress: Egress = Egress()
    console: Console = Console()
    bus: Bus = Bus()
