"""Text on its way in and out of a chat."""

from __future__ import annotations

import re

from microclaw.core.trigger import trim

_INTERNAL = re.compile(r"<internal>.*?</internal>", re.DOTALL)


def strip_internal(text: str) -> str:
    """The text without the agent's `<internal>…</internal>` notes, trimmed.

    No nesting: the first end tag ends a note. An unclosed or otherwise written tag is ordinary text.
    """
    return trim(_INTERNAL.sub("", text))


def outbound(text: str, assistant_name: str, *, prefix: bool = True) -> str:
    """What is to be said in a chat for this text of the agent; "" = nothing.

    `prefix` puts "Name: " before it, where the channel does not show who speaks.
    """
    said = strip_internal(text)
    return f"{assistant_name}: {said}" if said and prefix else said


def is_own_reply(text: str, assistant_name: str, flag: bool | None = None) -> bool:
    """Whether we wrote this message ourselves.

    The connector's flag decides. Only where there is none (a history of the original, which had no such flag)
    the prefix "Name:" tells, in any case.
    """
    if flag is not None:
        return flag
    return text.casefold().startswith(f"{assistant_name}:".casefold())


def is_worth_storing(text: str | None, *, attachments: int = 0) -> bool:
    """Whether a message has content at all; joins, reactions and the like have none."""
    return bool(text) or attachments > 0
