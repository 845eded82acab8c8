"""What NanoClaw, from which people come to us, wrote down: read strictly, and what is damaged is told, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from microclaw.core.container import Container
from microclaw.core.mounts import Wanted

#: The names of its `.env` that it handed to agents; every other line was its own.
SECRET_NAMES = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")


def read_cursors(raw: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Until when each chat's agent had read (`router_state.last_agent_timestamp`), and what the owner must be told.

    A damaged text counts as none: rather read a message twice than never.
    """
    if not raw:
        return {}, ()
    try:
        return msgspec.json.decode(raw, type=dict[str, str]), ()
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return {}, (f"how far the agents had read can't be told ({error}); messages of before may be read again",)


def secrets_in(env_file: str) -> dict[str, str]:
    """The secrets of its `.env` that its agents were given, by name."""
    found: dict[str, str] = {}
    for line in env_file.splitlines():
        name, is_set, value = line.strip().partition("=")
        if is_set and name in SECRET_NAMES and value.strip():
            found[name] = value.strip().strip("\"'")
    return found


def container_of(config: Mapping[str, Any]) -> Container:
    """A group's `container_config` as ours.

    :raises msgspec.ValidationError: it is not one.
    """
    return Container(
        timeout_ms=msgspec.convert(config.get("timeout") or 0, int),
        mounts=msgspec.convert(config.get("additionalMounts") or [], tuple[Wanted, ...]),
    )


def container_config_of(container: Container) -> dict[str, Any]:
    """The same the other way."""
    config: dict[str, Any] = {"timeout": container.timeout_ms} if container.timeout_ms else {}
    if container.mounts:
        config["additionalMounts"] = [msgspec.to_builtins(mount) for mount in container.mounts]
    return config
